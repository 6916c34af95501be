"""Files that are whole or absent, on disk or in an object store such as S3.

A local file is written under a temporary name in the same folder and then moved into place. An object is written to a
local temporary folder and then uploaded; a store shows an object only once all of it has arrived.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from configs.parsing import parse_json
from copytrace.checksums import note_written
from copytrace.errors import InputError, StorageError
from copytrace.lease import check_lease, hold_lease
from copytrace.object_store import StoredPath, as_stored_path, filesystem_of, reraise_as
from models.atomic_file import UMASK

_FULL = re.compile(r"No space left on device|^\d+ requested and \d+ written$")
_FULL_BELOW = 64 << 10  # bytes that are free


def is_uri(path: str) -> bool:
    """Return whether `path` is a URI for fsspec (`s3://bucket/key`), not a local path."""
    return "://" in path


def resolve_path(place: str | Path) -> Path:
    """Return a `Path` for a local place, or a `StoredPath` for a URI that fsspec opens (`s3://…`).

    A `StoredPath` is typed as a `Path`: it has the methods that this package calls, and the functions of this module
    handle the differences. Nothing is looked up yet. Raises `InputError` for an unknown scheme, and for no text;
    `StorageError` if a store is connected to at once, and does not answer.
    """
    text = str(place)
    if not text.strip():
        raise InputError("a place is given as an empty text, as if a variable had no value; name a file or folder")
    if not is_uri(text):
        return Path(text)
    with reraise_as(text, StorageError):  # some stores are connected to at once
        _, path = filesystem_of(text)
    return Path(path) if text.startswith("file://") else cast(Path, StoredPath(text))


def real_path(path: str) -> str:
    """Return the path that all spellings of a local file share, with links followed; a URI is returned as it is."""
    if is_uri(path):
        return path
    if Path(path).is_symlink():
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}/{name}"


def file_identity(path: str) -> str:
    """Return what all names of a local file share, spellings and links of both kinds: its device and inode.

    A URI is returned as it is, and of a file that cannot be looked up, the real path.
    """
    try:
        status = Path(path).stat() if not is_uri(path) else None
    except (OSError, ValueError):  # ValueError: a null byte in the path
        status = None
    return f"{status.st_dev}:{status.st_ino}" if status and status.st_ino else real_path(path)


_real_folder = lru_cache(maxsize=4096)(os.path.realpath)  # a folder is looked up once, not for each of its files


def require_writable(place: str | Path) -> Path:
    """Return `resolve_path(place)` after proving that a folder, or a place in a store, can be written; create nothing.

    Call it before hours of work. Raises `StorageError` if keys, bucket or endpoint are wrong, and `InputError` if a
    local place is no folder or may not be written; each says what to do.
    """
    path = resolve_path(place)
    if remote := as_stored_path(path):
        remote.prove_writable()
    else:
        _check_folder(path)
    return path


def _check_folder(path: Path) -> None:
    try:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise InputError(f"{path} cannot be a folder: {error.strerror}; name another place") from error
    if not nearest.is_dir():
        raise InputError(f"{nearest} is no folder, and what is written needs one; name another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{nearest} may not be written, or its disk is read-only; name another place")


@contextmanager
def open_output(place: str | Path) -> Iterator[Path]:
    """Yield `require_writable(place)`, into which no other run writes while the block runs; see `lease`.

    Raises `InUseError` if another run does, and errors as `require_writable` does.
    """
    path = require_writable(place)
    with hold_lease(path):
        yield path


def open_file(path: str) -> IO[bytes]:
    """Open a local file or a URI for reading. Raises the errors of the disk or of the store's client."""
    if not is_uri(path):
        return Path(path).open("rb")
    store, key = filesystem_of(path)
    opened: IO[bytes] = store.open(key, "rb")
    return opened


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a local temporary path, which becomes `path` on a clean exit and is removed on an error.

    Raises `LeaseLostError` if another run has taken over the folder in which `path` lies.
    """
    with _temporary_sibling(path) if (remote := as_stored_path(path)) is None else _temporary_copy(path) as temporary:
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            note_written(path, temporary)
            check_lease(path)
            if remote is None:
                temporary.chmod(0o666 & ~UMASK)  # a temporary file is for the user alone
                temporary.replace(path)
        except Exception as error:
            number = (error.errno if isinstance(error, OSError) else None) or _number_of(error, temporary.parent)
            if number is None:
                raise
            # pyarrow does not name the file; and for an object, it is the temporary folder that is full.
            raise OSError(number, os.strerror(number), str(path if remote is None else temporary)) from error
        if remote is not None:
            remote.upload(temporary)


def _number_of(error: Exception, folder: Path) -> int | None:
    """Return `ENOSPC` for what libraries raise on a full disk that is no `OSError`, or does not say so; else None.

    safetensors writes that a disk is full, numpy how much was written, and torch and faiss only that they failed.
    """
    is_told = _FULL.search(str(error)) is not None
    is_full = isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < _FULL_BELOW
    return errno.ENOSPC if is_told or is_full else None


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield `path` itself or, for an object in a store, a local copy that is deleted when the block ends.

    It is meant for libraries that read only local files. Raises `FileNotFoundError` if there is no such file.
    """
    remote = as_stored_path(path)
    if remote is None:
        yield path
        return
    with _temporary_copy(path) as copy:
        remote.download(copy)
        yield copy


def files_below(root: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, or all objects below a name, sorted."""
    if remote := as_stored_path(root):
        return [cast(Path, path) for path in remote.find()]
    return sorted(path for path in root.rglob("*") if path.is_file())


def remove_file(path: Path) -> None:
    """Delete a file if there is one. Raises `LeaseLostError` as `atomic_path` does."""
    check_lease(path)
    path.unlink(missing_ok=True)


def remove_tree(root: Path) -> None:
    """Delete a folder and everything in it, or all objects below a name. Raises `LeaseLostError` as `atomic_path`."""
    check_lease(root)
    remote = as_stored_path(root)
    if remote is None:
        shutil.rmtree(root)
    else:
        remote.remove_all()


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically and return `path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON with sorted keys atomically and return `path`."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the table that `write_json` wrote. Raises `FileNotFoundError`, or `InputError` for anything else."""
    try:
        table = parse_json(path.read_bytes())
        if not isinstance(table, dict):
            raise ValueError("it is no table of names and values")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; delete it, and give the command that made it again") from error
    return table


def file_size(path: Path) -> int | None:
    """Return the number of bytes of a file, or None if there is no such file."""
    try:
        if remote := as_stored_path(path):
            return remote.size()
        return path.stat().st_size
    except FileNotFoundError:
        return None


def time_of_writing(path: Path) -> int | None:
    """Return when a local file was written, in nanoseconds; None if there is none, and for objects in a store."""
    try:
        return None if as_stored_path(path) else path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def digest_of(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any of the JSON-able `parts` changes."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    return sha256_of(path)[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. Raises `OSError` for a device or a pipe: it may not end."""
    if not as_stored_path(path) and path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _temporary_sibling(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _temporary_copy(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder; stores derive the content type from its suffix."""
    with tempfile.TemporaryDirectory(prefix="copytrace-") as folder:
        yield Path(folder) / path.name
