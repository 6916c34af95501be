"""Which files of a source are meant: globs, and roots, in which media must lie wherever a link says that they are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote

from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from copytrace.errors import ConfigError, InputError
from copytrace.object_store import redact
from copytrace.storage import is_uri, real_path

_MAGIC = re.compile(r"[*?[]")


def is_glob(path: str) -> bool:
    """Return whether a path has a wildcard (`*`, `?`, `[…]`)."""
    return bool(_MAGIC.search(path))


def split_glob(path: str) -> tuple[str, re.Pattern[str], int | None]:
    """Return the folder above the first wildcard, the pattern of the paths below it, and their depth (None: any).

    Raises `InputError` if `**` is not a whole component of the path.
    """
    root = _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
    rest = path.removeprefix(root).lstrip("/")
    try:
        pattern = re.compile(glob_translate(rest))
    except (ValueError, re.error) as error:
        raise InputError(
            f"{redact(path)} is not a glob: `**` must be a whole path component; write `folder/**/name`"
        ) from error
    return root, pattern, None if "**" in rest else rest.count("/") + 1


@dataclass(frozen=True)
class FileChoice:
    """Globs that choose among the files of a folder, a glob or a bucket; and `roots`, in which all files must lie.

    A glob without a slash is compared with the names of files and folders, and any other with their path relative to
    the source; upper and lower case are the same. Naming a folder names all that is in it. If there are `include`
    globs, only what one of them names is taken; what an `exclude` glob names is not.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    roots: Sequence[str] = ()
    _folders: dict[str, tuple[bool, bool]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def allows(self, path: str) -> bool:
        """Return whether a local file or a URI lies in one of the roots, if there are any; see `lies_within`."""
        return not self.roots or lies_within(path, self.roots)

    def takes(self, relative: str) -> bool:
        """Return whether to take the file at a path relative to the source."""
        if not self.include and not self.exclude:
            return True
        named, left_out = self._names_of(relative)
        return not left_out and (named or not self.include)

    def leaves_out(self, relative: str) -> bool:
        """Return whether a folder is excluded, so that it need not be read; its parents are not looked at."""
        return bool(self.exclude) and _names(self._excluded, relative)

    def check(self) -> None:
        """Raise `ConfigError` if a glob cannot be understood."""
        _ = self._included, self._excluded

    def _names_of(self, relative: str) -> tuple[bool, bool]:
        """Return whether the include globs and the exclude globs name a file or folder, or one that it lies in."""
        parent = relative.rpartition("/")[0]
        if parent and parent not in self._folders:
            self._folders[parent] = self._names_of(parent)
        named, left_out = self._folders[parent] if parent else (False, False)
        return named or _names(self._included, relative), left_out or _names(self._excluded, relative)

    @cached_property
    def _included(self) -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
        return _compile(self.include, "include")

    @cached_property
    def _excluded(self) -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
        return _compile(self.exclude, "exclude")


def _compile(globs: Sequence[str], setting: str) -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    """Return the patterns of names, and those of relative paths."""
    names: list[re.Pattern[str]] = []
    paths: list[re.Pattern[str]] = []
    for glob in globs:
        plain = glob.removeprefix("./").strip("/")
        try:
            pattern = re.compile(glob_translate(plain), re.IGNORECASE)
        except (ValueError, re.error) as error:
            raise ConfigError(
                f"media.{setting}={glob!r} is not a glob: `**` must be a whole path component, as in `raw/**/*.tif`"
            ) from error
        (paths if "/" in glob.removeprefix("./").rstrip("/") else names).append(pattern)
    return names, paths


def _names(patterns: tuple[list[re.Pattern[str]], list[re.Pattern[str]]], relative: str) -> bool:
    names, paths = patterns
    last = relative.rpartition("/")[2]
    return any(pattern.match(last) for pattern in names) or any(pattern.match(relative) for pattern in paths)


def lies_within(path: str, roots: Sequence[str]) -> bool:
    """Return whether a local file or a URI lies in one of `roots`, which are folders or beginnings of URIs.

    Of a local file, where it really is counts, after all links. A URI that might lead elsewhere lies nowhere: one with
    `..`, which servers take as a step up, or with `::`, which chains stores.
    """
    place = _place(path)
    return place is not None and any(place.startswith(root) for root in map(_place, roots) if root is not None)


def _place(path: str) -> str | None:
    """Return the real path or the URI, with a slash at its end, so that one folder's name is no start of another's.

    None stands for nowhere.
    """
    if path.startswith("file://"):
        path = url_to_fs(path)[1]
    if not is_uri(path):
        try:
            return real_path(os.path.expanduser(path)).rstrip("/") + "/"  # noqa: PTH111 - also of what is no file
        except (OSError, ValueError):
            return None  # a name that no file can have
    if "::" in path or ".." in unquote(path).replace("\\", "/").split("/"):
        return None
    return path.rstrip("/") + "/"
