"""Media files: their listing in a folder, a glob, a bucket or a manifest, and those that cannot be read.

Each file has an id. The reason why one cannot be read is a line of `failures.csv`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from copytrace.errors import InputError, MediaError, TooManyFailuresError
from copytrace.object_store import explain_error, filesystem_of, object_version, redact, reraise_as
from copytrace.storage import is_uri, open_file, write_text

MANIFEST_SUFFIXES = {".csv", ".parquet"}

_MAGIC = re.compile(r"[*?[]")
_STAMP_THREADS = 32  # concurrent requests for object details; each takes a round trip
_MOST_NAMES = 3  # names in an error message


@dataclass(frozen=True, slots=True)
class MediaItem:
    """A file to read: its id, unique in the source; its absolute path or URI; a stamp of its content.

    The stamp consists of the size and the modification time, or of what the store gives (ETag, last-modified). It
    changes with the content, and is empty if the file does not exist.
    """

    id: str
    path: str
    stamp: str


# A file without an id yet: its name relative to the source, its path and its stamp.
_Found = tuple[str, str, str]


def list_media(source: str | Path) -> list[MediaItem]:
    """Return the media of `source`, sorted by id; open no file except a manifest.

    `source` is a folder, read recursively; a glob (`*`, `?`, `[…]`, `**`); one file; any of these as a URI that fsspec
    opens (`s3://…`); or a manifest, that is, a CSV or Parquet file with columns `id` and `path`, where relative paths
    start at the manifest's folder. Hidden files and folders are skipped; all other files are listed, whatever they
    contain. The id of a file in a folder or glob is its relative path without the suffix; files that would share an id
    keep their suffix.

    Raises `InputError` if the source does not exist, is empty or cannot be reached, or if the manifest lacks a column,
    an id or a path, or repeats an id. A manifest may name files that do not exist.
    """
    text = os.fspath(source)
    if text.startswith("file://"):
        text = url_to_fs(text)[1]
    items = _list_uri(text) if is_uri(text) else _list_local(text)
    if not items:
        raise InputError(
            f"no files in {redact(text)}; give a folder, a glob, a bucket or a manifest that contains files"
        )
    _check_encodable(items)
    return sorted(items, key=lambda item: item.id)


def _list_local(source: str) -> list[MediaItem]:
    try:
        return _list_files(Path(source).expanduser().absolute())
    except OSError as error:
        raise explain_error(error, source) from error


def _list_files(path: Path) -> list[MediaItem]:
    text = str(path)
    if path.is_dir():
        return _assign_ids(_find_files(text))
    if path.exists():
        if path.suffix.lower() in MANIFEST_SUFFIXES:
            return _read_manifest(text)
        return [MediaItem(path.stem, text, _stamp_of_status(path.stat()))]
    if not _MAGIC.search(text):
        raise FileNotFoundError
    root, pattern, depth = _split_glob(text)
    return _assign_ids(_find_files(root, pattern, depth))


def _list_uri(uri: str) -> list[MediaItem]:
    with reraise_as(uri):
        return _list_objects(uri)


def _list_objects(uri: str) -> list[MediaItem]:
    store, path = filesystem_of(uri)
    if _MAGIC.search(path):
        root, pattern, depth = _split_glob(path)
    elif Path(path).suffix.lower() in MANIFEST_SUFFIXES and store.isfile(path):
        return _read_manifest(uri)
    else:
        root, pattern, depth = path.rstrip("/"), None, None
    details = store.find(root, maxdepth=depth, detail=True)
    if pattern is None and list(details) == [root] and details[root]["type"] == "file":
        return [MediaItem(Path(root).stem, store.unstrip_protocol(root), _stamp_of_object(details[root]))]
    if not details:
        store.ls(root)  # raises if the folder is missing or denied; `find` does not
    found: list[_Found] = []
    for name, detail in details.items():
        relative = name[len(root) :].lstrip("/")
        hidden = relative.startswith(".") or "/." in relative
        # A key that ends in a slash is a folder created in a bucket's web console.
        if hidden or detail["type"] != "file" or name.endswith("/") or (pattern and not pattern.fullmatch(relative)):
            continue
        found.append((relative, store.unstrip_protocol(name), _stamp_of_object(detail)))
    return _assign_ids(found)


def _split_glob(path: str) -> tuple[str, re.Pattern[str], int | None]:
    """Return the folder above the first wildcard, the pattern of the paths below it, and their depth (None: any)."""
    root = _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
    rest = path.removeprefix(root).lstrip("/")
    try:
        pattern = re.compile(glob_translate(rest))
    except (ValueError, re.error) as error:
        raise InputError(
            f"{redact(path)} is not a glob: `**` must be a whole path component; write `folder/**/name`"
        ) from error
    return root, pattern, None if "**" in rest else rest.count("/") + 1


def _find_files(root: str, pattern: re.Pattern[str] | None = None, depth: int | None = None) -> Iterator[_Found]:
    status = Path(root or "/").stat()
    start = len(root.rstrip("/")) + 1
    for entry in _scan_folder(root or "/", depth, frozenset({(status.st_dev, status.st_ino)})):
        relative = entry.path[start:]
        if pattern is None or pattern.fullmatch(relative):
            yield relative, entry.path, _stamp_of_entry(entry)


def _scan_folder(folder: str, depth: int | None, above: frozenset[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder that are not hidden, down to `depth` levels (1: the folder itself; None: all)."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                status = entry.stat()
                # Links to folders are followed; one that points to a folder above itself would never end.
                here = (status.st_dev, status.st_ino)
                if depth != 1 and here not in above:
                    yield from _scan_folder(entry.path, depth and depth - 1, above | {here})
            elif entry.is_file() or entry.is_symlink():  # not sockets or pipes, which block on opening
                yield entry


def _assign_ids(found: Iterable[_Found]) -> list[MediaItem]:
    """Give each file the shortest unique id: its name without the suffix, or else its whole name."""
    rows = list(found)
    ids = [_without_suffix(relative) for relative, _, _ in rows]
    # Repeated, because `a.jpg`, with its suffix because of `a.png`, may now equal the id of `a.jpg.png`.
    while shared := {name for name, count in Counter(ids).items() if count > 1}:
        ids = [relative if name in shared else name for name, (relative, _, _) in zip(ids, rows, strict=True)]
    return [MediaItem(name, path, stamp) for name, (_, path, stamp) in zip(ids, rows, strict=True)]


def _without_suffix(relative: str) -> str:
    folder, slash, name = relative.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _read_manifest(path: str) -> list[MediaItem]:
    table = _manifest_table(path)
    for name in ("id", "path"):
        blank = [str(row) for row, text in enumerate(table[name].to_pylist(), start=1) if not (text or "").strip()]
        if blank:
            raise InputError(f"manifest {redact(path)}: no {name} in row {_join_names(blank)}; every row needs one")
    ids = table["id"].to_pylist()
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"manifest {redact(path)} repeats id {_join_names(repeated)}; ids must be unique")
    folder = path.rpartition("/")[0]
    paths = [row if is_uri(row) or row.startswith("/") else f"{folder}/{row}" for row in table["path"].to_pylist()]
    return [MediaItem(*row) for row in zip(ids, paths, _stamps(paths), strict=True)]


def _manifest_table(path: str) -> pa.Table:
    """Return columns `id` and `path` as strings, so that `007` stays `007`."""
    wanted = {"id": pa.string(), "path": pa.string()}
    try:
        with open_file(path) as stream:
            if path.lower().endswith(".parquet"):
                return pq.ParquetFile(stream).read(columns=list(wanted)).select(list(wanted)).cast(pa.schema(wanted))
            return pyarrow.csv.read_csv(
                stream,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=wanted, include_columns=list(wanted)),
            )
    except KeyError as error:
        raise InputError(f"manifest {redact(path)} lacks a column; it needs id and path") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        kind = Path(path).suffix[1:].lower()
        raise InputError(f"manifest {redact(path)} cannot be read as {kind} with columns id and path") from error


def _stamps(paths: list[str]) -> Iterator[str]:
    with ThreadPoolExecutor(_STAMP_THREADS) as pool:
        details = iter(list(pool.map(_stamp_of_uri, filter(is_uri, paths))))
    for path in paths:
        yield next(details) if is_uri(path) else _stamp_of_path(path)


def _stamp_of_uri(uri: str) -> str:
    with reraise_as(uri):
        store, path = filesystem_of(uri)
        try:
            return _stamp_of_object(store.info(path))
        except (FileNotFoundError, PermissionError):
            return ""


def _stamp_of_object(detail: dict[str, Any]) -> str:
    return f"{detail.get('size')}-{object_version(detail).strip(chr(34))}"


def _stamp_of_path(path: str) -> str:
    try:
        return _stamp_of_status(Path(path).stat())
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return ""


def _stamp_of_entry(entry: os.DirEntry[str]) -> str:
    try:
        return _stamp_of_status(entry.stat())
    except OSError:  # a broken link
        return ""


def _stamp_of_status(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _check_encodable(items: list[MediaItem]) -> None:
    for item in items:
        if not item.path.isascii():
            try:
                item.path.encode()
            except UnicodeEncodeError as error:
                name = item.path.encode(errors="backslashreplace").decode()
                raise InputError(f"the name of {name} is not UTF-8; rename the file") from error


def _join_names(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that a stage could not use, with the reason in one line."""

    id: str
    path: str
    stage: str
    error: str


_COLUMNS = [field.name for field in fields(Failure)]


def write_failures(path: Path, failures: Iterable[Failure]) -> Path:
    """Write the CSV `id,path,stage,error`, sorted, and return `path`.

    The file is replaced atomically. Each error becomes one line.
    """
    rows = sorted((*astuple(failure)[:3], " ".join(failure.error.split())) for failure in failures)
    # `csv` leaves a lone carriage return unquoted, and then reads it as the end of a row.
    returns = any("\r" in field for row in rows for field in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerows([_COLUMNS, *rows])
    return write_text(path, text.getvalue())


def read_failures(path: Path) -> list[Failure]:
    """Return the failures that `write_failures` wrote. Raises `InputError` if the file has another header."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, []) != _COLUMNS:
            raise InputError(f"{path} is not a list of failures; its header must be {','.join(_COLUMNS)}")
        return [Failure(*row) for row in rows]


def gather_failures(lists: Iterable[Path], path: Path) -> Path:
    """Write the failures of all lists to `path`, and return it; skip lists that do not exist."""
    failures: list[Failure] = []
    for each in lists:
        try:
            failures += read_failures(each)
        except FileNotFoundError:
            continue
    return write_failures(path, failures)


def check_failure_rate(failed: int, total: int, max_rate: float, failures_path: Path) -> None:
    """Raise `TooManyFailuresError` if more than `max_rate` (0 to 1) of `total` files failed."""
    if failed > max_rate * total:
        raise TooManyFailuresError(
            f"{failed:,} of {total:,} files failed ({failed / max(total, 1):.1%}), more than max_failure_rate "
            f"{max_rate:.1%}; see the reasons in {failures_path}, mend the files or raise max_failure_rate"
        )


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Raise `MediaError` with a one-line reason, without the path, if a local file or a URI cannot be read."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError("file not found") from error
    except PermissionError as error:
        raise MediaError("permission denied") from error
    except Exception as error:
        if is_uri(path):
            # A store's client raises errors of many types. Their texts may contain keys; the names of the types do not.
            raise MediaError(f"cannot be fetched ({type(error).__name__})") from error
        if isinstance(error, OSError | ValueError):  # ValueError: a null byte in the path
            raise MediaError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        raise
