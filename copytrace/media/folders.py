"""The files of a local folder, found without opening any: links are followed once, and oddities are noted.

Noted are folders that cannot be read, links that lead nowhere, names that are not UTF-8, and links to what is searched
anyway. Hidden files and folders, and folders of Copytrace's own results, are left out without a note.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from copytrace.media.failures import Failure
from copytrace.media.globs import FileChoice
from copytrace.media.stamps import stamp_of_status

LIST = "list"
"""The stage of what could not be listed."""
PASS_OVER = "pass over"  # noqa: S105
"""The stage of what is no medium."""
LINK = "link"
"""The stage of links that were not followed, because what they lead to is searched anyway."""

WORK = "work"
"""Name of the folder, within the results of a run, of what a later run continues from."""

_MARKS = {"plan.parquet", "receipts", "index.json", WORK, "failures.csv"}

_Identity = tuple[int, int]  # device and inode
_Entry = tuple[str, str, os.stat_result]  # of a file: relative path, path, status


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file without an id yet: its name relative to the source, and the rest as in `MediaItem`."""

    relative: str
    path: str
    stamp: str
    content: str = ""


@dataclass(slots=True)
class Found:
    """Files, and what is odd: what cannot be read, and what is passed over."""

    files: list[FoundFile] = field(default_factory=list)
    unreadable: list[Failure] = field(default_factory=list)
    passed_over: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    real: str  # its path with all links followed
    relative: str
    depth: int | None  # levels to search: 1 for the folder itself only, None for all


def find_files(
    root: str, choice: FileChoice, pattern: re.Pattern[str] | None = None, depth: int | None = None
) -> Found:
    """Return the files below the folder `root` whose relative path fits `pattern`, down to `depth` levels (None: all).

    Raises `OSError` if `root` itself cannot be read.
    """
    walk = _Walk(choice, pattern)
    walk.visit_root(_Folder(root or "/", os.path.realpath(root or "/"), "", depth))
    return walk.found


def is_results_folder(names: Collection[str]) -> bool:
    """Return whether a folder with these names in it is an index, or the results of a run."""
    is_index = "plan.parquet" in names and ("receipts" in names or "index.json" in names)
    return is_index or (WORK in names and "failures.csv" in names)


def find_results_folders(paths: Iterable[str]) -> set[str]:
    """Return the folders of Copytrace's own results among those that hold these relative paths."""
    names: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        for number, part in enumerate(parts):
            if part in _MARKS:
                names.setdefault("/".join(parts[:number]), set()).add(part)
    found = {folder for folder, inside in names.items() if is_results_folder(inside)}
    return (found - {""}) | ({WORK} if "" in found else set())


class _Walk:
    """A search of a folder: first what is in it, then what its links lead to, so that real names win over links."""

    def __init__(self, choice: FileChoice, pattern: re.Pattern[str] | None) -> None:
        self.found = Found()
        self._choice, self._pattern = choice, pattern
        self._seen: set[_Identity] = set()
        self._above: set[_Identity] = set()
        self._real_folders: dict[str, str] = {}  # with all links followed, by the relative path
        self._folder_links: list[_Folder] = []
        self._hard_links: list[_Entry] = []
        self._file_links: list[_Entry] = []

    def visit_root(self, root: _Folder) -> None:
        self._above = {_identity(parent.stat()) for parent in Path(root.real).parents}
        self._seen.add(_identity(Path(root.path).stat()))
        with os.scandir(root.path) as opened:
            entries = list(opened)
        is_results = is_results_folder({entry.name for entry in entries})
        self._visit_all(self._visit(root, [entry for entry in entries if not is_results or entry.name != WORK]))
        while self._folder_links:
            links, self._folder_links = sorted(self._folder_links, key=lambda link: link.relative), []
            for link in links:
                if self._is_new(link):
                    self._visit_all([link])
        self._take_links()

    def _visit_all(self, stack: list[_Folder]) -> None:
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder.path) as opened:
                    entries = list(opened)
            except OSError as error:
                self._note_unreadable(folder.relative, folder.path, f"the folder cannot be read: {error.strerror}")
                continue
            if not is_results_folder({entry.name for entry in entries}):
                stack += self._visit(folder, entries)

    def _visit(self, folder: _Folder, entries: Iterable[os.DirEntry[str]]) -> list[_Folder]:
        """Take the files of a folder, and return its subfolders."""
        self._real_folders[folder.relative] = folder.real.rstrip("/")
        subfolders: list[_Folder] = []
        prefix = f"{folder.relative}/" if folder.relative else ""
        for entry in entries:
            if entry.name.startswith("."):
                continue
            relative = prefix + entry.name
            try:
                if entry.is_dir():
                    subfolders += self._enter(folder, entry, relative)
                else:
                    self._take(entry, relative)
            except OSError as error:
                self._note_unreadable(relative, entry.path, error.strerror or type(error).__name__)
        return subfolders

    def _enter(self, above: _Folder, entry: os.DirEntry[str], relative: str) -> list[_Folder]:
        if above.depth == 1 or self._choice.leaves_out(relative) or self._is_misnamed(entry, relative):
            return []
        depth = above.depth and above.depth - 1
        if entry.is_symlink():
            self._folder_links.append(_Folder(entry.path, os.path.realpath(entry.path), relative, depth))
            return []
        here = _identity(entry.stat())
        if here in self._seen:  # mounted twice
            self._note_passed_over(relative, entry.path, "the same folder is searched under another name")
            return []
        self._seen.add(here)
        return [_Folder(entry.path, f"{above.real.rstrip('/')}/{entry.name}", relative, depth)]

    def _is_new(self, link: _Folder) -> bool:
        """Return whether a link leads to a folder that has not been searched, and note it otherwise."""
        try:
            here = _identity(Path(link.path).stat())
        except OSError as error:
            self._note_unreadable(link.relative, link.path, error.strerror or type(error).__name__)
            return False
        if here in self._seen or here in self._above:
            why = "a folder above it" if here in self._above else "a folder that is searched already"
            self._note_passed_over(link.relative, link.path, f"a link to {why}, {link.real}")
            return False
        self._seen.add(here)
        return True

    def _take(self, entry: os.DirEntry[str], relative: str) -> None:
        if not (self._pattern is None or self._pattern.fullmatch(relative)) or not self._choice.takes(relative):
            return
        if self._is_misnamed(entry, relative):
            return
        if not entry.is_file():
            self._note_other(entry, relative)
            return
        status = entry.stat()
        if entry.is_symlink():
            self._file_links.append((relative, entry.path, status))
        elif status.st_nlink > 1 and status.st_ino:  # some network file systems number no files
            self._hard_links.append((relative, entry.path, status))
        else:
            self.found.files.append(FoundFile(relative, entry.path, stamp_of_status(status)))

    def _take_links(self) -> None:
        """Take each file that has several names once, by the first of them, and by a symbolic link only if need be."""
        several: dict[_Identity, str] = {}
        for relative, path, status in sorted(self._hard_links, key=_relative):
            first = several.setdefault(_identity(status), path)
            if first == path:
                self.found.files.append(FoundFile(relative, path, stamp_of_status(status)))
            else:
                self._note_passed_over(relative, path, f"a hard link to a file that is searched anyway, {first}")
        if not self._file_links:
            return
        places = (file.relative.rpartition("/") for file in self.found.files)
        known = {f"{self._real_folders[folder]}/{name}" for folder, _, name in places}
        for relative, path, status in sorted(self._file_links, key=_relative):
            real = os.path.realpath(path)
            if real in known or _identity(status) in several:
                self._note_passed_over(relative, path, f"a link to a file that is searched anyway, {real}")
                continue
            known.add(real)
            if status.st_nlink > 1:
                several[_identity(status)] = path
            self.found.files.append(FoundFile(relative, path, stamp_of_status(status)))

    def _note_other(self, entry: os.DirEntry[str], relative: str) -> None:
        if Path(entry.path).exists():  # a pipe, a socket or a device, which may block on opening
            self._note_passed_over(relative, entry.path, "not a regular file", PASS_OVER)
        else:
            target = printable_name(str(Path(entry.path).readlink()))
            self._note_unreadable(relative, entry.path, f"a link to {target}, which does not exist")

    def _is_misnamed(self, entry: os.DirEntry[str], relative: str) -> bool:
        if printable_name(entry.name) == entry.name:
            return False
        kind = "folder" if entry.is_dir() else "file"
        self._note_unreadable(relative, entry.path, f"the name is not UTF-8; rename the {kind}")
        return True

    def _note_unreadable(self, relative: str, path: str, reason: str) -> None:
        self.found.unreadable.append(Failure(printable_name(relative), printable_name(path), LIST, reason))

    def _note_passed_over(self, relative: str, path: str, reason: str, stage: str = LINK) -> None:
        self.found.passed_over.append(Failure(relative, path, stage, reason))


def _relative(entry: _Entry) -> str:
    return entry[0]


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def printable_name(name: str) -> str:
    """Return a name in which bytes that are not UTF-8 are written out, as `\\xff`."""
    if name.isascii():
        return name
    return os.fsencode(name).decode(errors="backslashreplace")
