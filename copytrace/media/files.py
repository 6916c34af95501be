"""Media files: their listing in a folder, a glob, a bucket or a manifest, each with an id.

No file is opened except a manifest, so that a million files are listed in seconds. What a file holds is seen when it is
decoded.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fsspec.core import url_to_fs

from copytrace.errors import InputError
from copytrace.media.failures import Failure
from copytrace.media.folders import LIST, Found, FoundFile, find_files, find_results_folders, printable_name
from copytrace.media.formats import MediumKind, promises_medium
from copytrace.media.globs import FileChoice, is_glob, split_glob
from copytrace.media.manifest import is_manifest, join_names, read_media_manifest
from copytrace.media.stamps import content_of_object, stamp_of_object, stamp_of_status
from copytrace.object_store import explain_error, filesystem_of, is_bad_address, redact, reraise_as
from copytrace.storage import is_uri

_STAMP_THREADS = 32  # concurrent requests for object details; each takes a round trip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MediaItem:
    """A file to read: its id, unique in the source; its absolute path or URI; a stamp; and its content, if known.

    The stamp (see `stamps`) changes with the content, and is empty if the file does not exist. `content`
    tells it by a digest, wherever it lies; listing knows that only of objects in S3, and an index of all that it holds.
    """

    id: str
    path: str
    stamp: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source, sorted by id; and what is odd in it, a row each.

    `unreadable` has the folders that cannot be read, the links that lead nowhere and the names that are not UTF-8;
    `passed_over` the links to what is listed anyway, and pipes.
    """

    items: list[MediaItem]
    unreadable: Sequence[Failure] = ()
    passed_over: Sequence[Failure] = ()


def list_media(source: str | Path, kind: MediumKind | None = None) -> list[MediaItem]:
    """Return the items of `list_source`; log how many files and folders cannot be read, if any."""
    listing = list_source(source, kind=kind)
    if listing.unreadable:
        names = join_names([failure.path for failure in listing.unreadable])
        logger.warning(
            "%s files or folders in %s cannot be read, and are left out: %s",
            f"{len(listing.unreadable):,}",
            redact(os.fspath(source)),
            names,
        )
    return listing.items


def list_source(source: str | Path, choice: FileChoice | None = None, kind: MediumKind | None = None) -> Listing:
    """List the media of `source`; open no file except a manifest.

    `source` is a folder, read recursively; a glob (`*`, `?`, `[…]`, `**`); one file; any of these as a URI that fsspec
    opens (`s3://…`); or a manifest, that is, a CSV or Parquet file with columns `id` and `path`, where relative paths
    start at the manifest's folder. Of a folder, a glob or a bucket, `choice` chooses files. Hidden files and folders
    and Copytrace's own results are skipped, and links to folders are followed once; all other files are listed,
    whatever they contain. The id of a file in a folder or glob is its relative path without the suffix; media of this
    `kind` (None: of any) that would share an id keep their suffix (see `assign_ids`).

    Raises `InputError` if the source does not exist, has no file or cannot be reached, or if the manifest lacks a
    column, an id or a path, or repeats an id; `ConfigError` if a glob of `choice` cannot be understood. A manifest may
    name files that do not exist.
    """
    choice = choice or FileChoice()
    choice.check()
    text = os.fspath(source)
    if not text.strip():
        raise InputError("a source is given as an empty text, as if a variable had no value; name a folder or a file")
    if text.startswith("file://"):
        text = url_to_fs(text)[1]
    listing = (_list_uri if is_uri(text) else _list_local)(text, choice, kind)
    if not listing.items:
        raise InputError(_describe_absence(redact(text), listing, choice))
    listing.items.sort(key=lambda item: item.id)
    return listing


def _describe_absence(source: str, listing: Listing, choice: FileChoice) -> str:
    cure = "give a folder, a glob, a bucket or a manifest that contains files"
    if choice.include or choice.exclude:
        cure = "check the globs that are included and excluded"
    if listing.unreadable:
        first = listing.unreadable[0]
        cure = f"{len(listing.unreadable):,} cannot be read, such as {first.path}: {first.error}"
    return f"no files in {source}; {cure}"


def _list_local(source: str, choice: FileChoice, kind: MediumKind | None) -> Listing:
    try:
        return _list_files(Path(source).expanduser().absolute(), choice, kind)
    except OSError as error:
        raise explain_error(error, source) from error


def _list_files(path: Path, choice: FileChoice, kind: MediumKind | None) -> Listing:
    text = str(path)
    if (printable := printable_name(text)) != text:
        raise InputError(f"the name of {printable} is not UTF-8; rename it")
    if path.is_dir():
        return _listing(find_files(text, choice), choice, kind)
    if path.exists():
        if is_manifest(text):
            return _list_manifest(text, choice)
        return _confine(Listing([MediaItem(path.stem, text, stamp_of_status(path.stat()))]), choice)
    if not is_glob(text):
        raise FileNotFoundError
    root, pattern, depth = split_glob(text)
    return _listing(find_files(root, choice, pattern, depth), choice, kind)


def _list_uri(uri: str, choice: FileChoice, kind: MediumKind | None) -> Listing:
    with reraise_as(uri):
        return _list_objects(uri, choice, kind)


def _list_objects(uri: str, choice: FileChoice, kind: MediumKind | None) -> Listing:
    store, path = filesystem_of(uri)
    if is_glob(path):
        root, pattern, depth = split_glob(path)
    elif is_manifest(path) and store.isfile(path):
        return _list_manifest(uri, choice)
    else:
        root, pattern, depth = path.rstrip("/"), None, None
    details = store.find(root, maxdepth=depth, detail=True)
    if pattern is None and list(details) == [root] and details[root]["type"] == "file":
        name = store.unstrip_protocol(root)
        known = stamp_of_object(details[root]), content_of_object(name, details[root])
        return _confine(Listing([MediaItem(Path(root).stem, name, *known)]), choice)
    if not details:
        store.ls(root)  # raises if the folder is missing or denied; `find` does not
    names = {name[len(root) :].lstrip("/"): name for name in details}
    results = tuple(f"{folder}/" for folder in find_results_folders(names))
    found = Found()
    for relative, name in names.items():
        hidden = relative.startswith(".") or "/." in relative or relative.startswith(results)
        # A key that ends in a slash is a folder created in a bucket's web console.
        if hidden or details[name]["type"] != "file" or name.endswith("/"):
            continue
        if (pattern is None or pattern.fullmatch(relative)) and choice.takes(relative):
            place, detail = store.unstrip_protocol(name), details[name]
            known = stamp_of_object(detail), content_of_object(place, detail)
            found.files.append(FoundFile(relative, place, *known))
    return _listing(found, choice, kind)


def _listing(found: Found, choice: FileChoice, kind: MediumKind | None) -> Listing:
    ids = assign_ids([file.relative for file in found.files], kind)
    items = [
        MediaItem(identity, file.path, file.stamp, file.content)
        for identity, file in zip(ids, found.files, strict=True)
    ]
    return _confine(Listing(items, found.unreadable, found.passed_over), choice)


def _confine(listing: Listing, choice: FileChoice) -> Listing:
    """Return a listing without what lies outside of the roots, which is listed as unreadable."""
    if not choice.roots:
        return listing
    allowed = [choice.allows(item.path) for item in listing.items]
    kept, refused = (
        [item for item, is_allowed in zip(listing.items, allowed, strict=True) if is_allowed == wanted]
        for wanted in (True, False)
    )
    reason = "it lies outside of media.roots; move it there, or add its folder to them"
    failures = [Failure(item.id, item.path, LIST, reason) for item in refused]
    return replace(listing, items=kept, unreadable=[*listing.unreadable, *failures])


def _list_manifest(path: str, choice: FileChoice) -> Listing:
    ids, paths = read_media_manifest(path)
    # Servers outside of the roots are not asked for anything, not even for stamps.
    listing = _confine(
        Listing([MediaItem(identity, place, "") for identity, place in zip(ids, paths, strict=True)]), choice
    )
    stamps = _stamps([item.path for item in listing.items])
    stamped = [MediaItem(item.id, item.path, *known) for item, known in zip(listing.items, stamps, strict=True)]
    return replace(listing, items=stamped)


def _stamps(paths: list[str]) -> Iterator[tuple[str, str]]:
    with ThreadPoolExecutor(_STAMP_THREADS) as pool:
        details = iter(list(pool.map(_stamp_of_uri, filter(is_uri, paths))))
    for path in paths:
        yield next(details) if is_uri(path) else (_stamp_of_path(path), "")


def _stamp_of_uri(uri: str) -> tuple[str, str]:
    with reraise_as(uri):
        try:
            store, path = filesystem_of(uri)
            detail = store.info(path)
        except (FileNotFoundError, PermissionError):
            return "", ""
        except Exception as error:
            if is_bad_address(error):
                return "", ""  # reading it tells
            raise
        return stamp_of_object(detail), content_of_object(uri, detail)


def _stamp_of_path(path: str) -> str:
    try:
        return stamp_of_status(Path(path).stat())
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return ""


def assign_ids(relatives: Sequence[str], kind: MediumKind | None = None) -> list[str]:
    """Return the ids of files with these relative paths, which are all different.

    A file has the shortest unique id: its path without the suffix, or else all of it. What is no medium of this kind by
    its name does not count: beside `a.txt`, `a.jpg` is still `a`, and the text is `a.txt`. Media that would share an
    id, `a.jpg` and `a.png`, both keep their suffix, whatever lies beside them.
    """
    ranks = [promises_medium(relative, kind) for relative in relatives]
    ids = dict.fromkeys(relatives, "")
    taken: set[str] = set()
    for rank in sorted(set(ranks), reverse=True):
        group = [relative for relative, own in zip(relatives, ranks, strict=True) if own == rank]
        named = _shortest(group, taken)
        ids |= dict(zip(group, named, strict=True))
        taken.update(named, map(_without_suffix, group))
    return list(ids.values())


def _shortest(relatives: Sequence[str], taken: Iterable[str]) -> list[str]:
    ids = [_without_suffix(relative) for relative in relatives]
    # Repeated, because `a.jpg`, with its suffix because of `a.png`, may now equal the id of `a.jpg.png`.
    while shared := {name for name, count in Counter([*ids, *taken]).items() if count > 1}:
        # `a.txt` itself is the id of `a.txt.png`: no path within a folder begins like this one.
        longer = [relative if relative not in taken else f"./{relative}" for relative in relatives]
        ids = [whole if name in shared else name for name, whole in zip(ids, longer, strict=True)]
    return ids


def _without_suffix(relative: str) -> str:
    folder, slash, name = relative.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
