"""Object stores such as S3: paths in them, requests to them, and their errors in one line."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Literal
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from upath.extensions import ProxyUPath

from copytrace.errors import CopytraceError, InputError, StorageError
from copytrace.seekable import SeekableReader

# botocore tries a request five times if it cannot connect or gets 5xx, and waits half a second to four between, on
# average; s3fs tries five times what botocore gives up. So a store may take some twenty seconds to restart.
# Of a store that takes connections and never answers, 75 attempts were counted for one read.
# `total_max_attempts` counts the first attempt; `max_attempts` does not, and botocore would replace it in this dict.
_RETRIES = {"mode": "standard", "total_max_attempts": 5}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_S3 = {"config_kwargs": {"retries": _RETRIES, "connect_timeout": 5, "read_timeout": 20}}

# Fields of the `info` of different stores that change with an object's content, the most reliable first.
_VERSION_FIELDS = (
    "ETag",
    "etag",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "modified",
    "created",
)

_BAD_ADDRESSES = {"InvalidUrlClientError", "NonHttpUrlClientError", "ParamValidationError"}  # of aiohttp, of botocore

PART = 8 << 20  # bytes fetched at a time from an object that is read from its start


def redact(source: str) -> str:
    """Return `source` without user names, passwords and signatures, for messages and reports."""
    source = re.sub(r"://[^/@]*@", "://", source)
    return re.sub(r"(https?://[^?\s]*)\?\S*", r"\1", source)  # also within a chain of stores, or a setting


def redact_all(value: Any) -> Any:
    """Return a JSON-able value in which every text is redacted."""
    if isinstance(value, dict):
        return {name: redact_all(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(part) for part in value]
    return redact(value) if isinstance(value, str) else value


def filesystem_of(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI, and the path in it.

    Keys and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and so on) or from
    `fsspec.config.conf["s3"]`, which also overrides our retries and timeouts. Raises `InputError` for a scheme that
    fsspec does not know, and for an address that its store cannot have; and `ImportError` if a package is missing.
    """
    scheme = uri.partition("://")[0].rpartition("::")[2]
    if scheme not in fsspec.available_protocols():
        raise InputError(f"{redact(uri)}: fsspec knows no {scheme}://; check the address")
    try:
        found: tuple[Any, str] = url_to_fs(uri, **({} if "::" in uri else _options_of(scheme)))
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{redact(uri)} is no address of {scheme}:// ({type(error).__name__}); check it") from error
    return found


def is_bad_address(error: BaseException) -> bool:
    """Return whether an error of a store's client says that an address cannot be that of a file; no retry helps."""
    return (
        isinstance(error, InputError | IsADirectoryError | NotADirectoryError | NotImplementedError)
        or type(error) is ValueError  # not its kinds, such as what a broken answer raises
        or type(error).__name__ in _BAD_ADDRESSES
    )


def _options_of(scheme: str) -> dict[str, Any]:
    if scheme.startswith("http"):
        return {}
    # Listings are not cached, because another process may just have written there.
    options: dict[str, Any] = {"use_listings_cache": False, **(_S3 if scheme in {"s3", "s3a"} else {})}
    return {name: value for name, value in options.items() if name not in fsspec.config.conf.get(scheme, {})}


def object_version(detail: Mapping[str, Any]) -> str:
    """Return a text from a store's `info` that changes with an object's content; "" if it reports none."""
    return str(next((detail[field] for field in _VERSION_FIELDS if detail.get(field)), ""))


@contextmanager
def reraise_as(
    place: str, kind: type[CopytraceError] = InputError, *, may_be_missing: bool = False, label: str = ""
) -> Iterator[None]:
    """Reraise the errors of a store's client as one line; see `explain_error`.

    With `may_be_missing`, a `FileNotFoundError` passes unchanged. So does the `OSError` of a full or read-only local
    disk, which is not the store's fault.
    """
    try:
        yield
    except CopytraceError:
        raise
    except Exception as error:
        is_missing = isinstance(error, FileNotFoundError)
        if (is_missing and may_be_missing) or (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
            raise
        raise explain_error(error, place, kind, label) from error


def explain_error(
    error: Exception, place: str, kind: type[CopytraceError] = InputError, label: str = ""
) -> CopytraceError:
    """Return an error of the disk or of a store's client as one line, without its text, which may contain keys.

    The message calls the place `label`, if that is given.
    """
    where = label or redact(place)
    if isinstance(error, ImportError):
        return kind(f"{where} needs a package that is missing: {error}")
    # fsspec's HTTP store reports every failure as a missing file; the cause has the real reason.
    is_hidden = isinstance(error, FileNotFoundError) and place.startswith("http")
    cause = (error.__cause__ or error) if is_hidden else error
    status = getattr(cause, "status", None)
    if isinstance(cause, PermissionError) or status in {401, 403}:
        return kind(f"access to {where} is denied; check the permissions or credentials")
    if isinstance(cause, FileNotFoundError) or status == 404:
        return kind(f"{where} does not exist; check the path")
    reason = type(cause).__name__
    return kind(f"{where} cannot be reached ({reason}); check the address, the credentials and the network")


class StoredPath(ProxyUPath):
    """A place in a store, with those methods of `pathlib.Path` that this package calls, in few requests.

    A store has no folders, so `mkdir` does nothing. Instances can be pickled, and work in forked processes.
    Methods that send a request raise `StorageError`, which says what to do, if the store denies access or does not
    answer.
    """

    __slots__ = ()

    @property
    def fs(self) -> Any:
        """The file system; looked up each time, because one that was opened before a fork does not work after it."""
        return filesystem_of(str(self))[0]

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is an object of this name, or any below it."""
        with self._reraise():
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        with self._reraise():
            return bool(self.fs.isfile(self.path))

    def is_dir(self) -> bool:
        """Return whether there are objects below this name."""
        with self._reraise():
            return bool(self.fs.isdir(self.path))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing."""

    def iterdir(self) -> Iterator[StoredPath]:
        """Yield the paths directly below this one."""
        yield from self._list(lambda: self.fs.ls(self.path, detail=False))

    def etags(self) -> dict[str, str]:
        """Return the names directly below this one, with the ETag of each, "" if the store states none."""
        with suppress(FileNotFoundError), self._reraise():
            found = self.fs.ls(self.path, detail=True)
            return {Path(each["name"]).name: str(each.get("ETag", "")) for each in found}
        return {}

    def glob(self, pattern: str, **_: Any) -> Iterator[StoredPath]:
        """Yield the paths below that match; a pattern without a slash takes one listing."""
        if "/" in pattern:
            yield from self._list(lambda: self.fs.glob(f"{self.path}/{pattern}"))
        else:
            yield from (found for found in self.iterdir() if fnmatchcase(found.name, pattern))

    def open(  # type: ignore[override]
        self,
        mode: Literal["r", "rb"] = "r",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the object for reading; it is fetched in long parts. To write, use `upload` or `write_bytes`."""
        stream = self.stream(PART)
        binary = stream if isinstance(stream, io.BytesIO) else io.BufferedReader(stream, PART)
        return binary if mode == "rb" else io.TextIOWrapper(binary, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """Return the whole object, in one request."""
        with self._reraise():
            content: bytes = self.fs.cat_file(self.path, max_concurrency=1)
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Return the whole object as text."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors, newline).read()

    def write_bytes(self, data: bytes) -> int:
        """Write the object, whole or not at all."""
        with self._reraise_write():
            self.fs.pipe_file(self.path, data)
        return len(data)

    def create(self, data: bytes) -> None:
        """Write the object if there is none of this name; of several processes that try, one succeeds.

        Read it afterwards to see whose it is: a store that knows no conditional requests keeps the last one.
        """
        with self._reraise_write():
            try:
                self.fs.pipe_file(self.path, data, mode="create")
            except OSError as error:
                if error.errno == errno.ENOSYS and not self.is_file():
                    self.fs.pipe_file(self.path, data)
                elif not self.is_file():
                    raise

    def prove_writable(self) -> None:
        """Write an empty object below this name and delete it. Raises `StorageError` if that fails."""
        with self._reraise_write():
            if self.protocol in {"s3", "s3a"}:
                # Some stores create a missing bucket on a write. Keys that may write may not be allowed to ask.
                with suppress(PermissionError):
                    self.fs.call_s3("head_bucket", Bucket=self.drive)
            probe = f"{self.path}/.copytrace-{uuid4().hex}"
            self.fs.pipe_file(probe, b"")
            self.fs.rm_file(probe)

    def upload(self, file: Path) -> None:
        """Copy a local file here, whole or not at all; a large one is sent in parts."""
        with self._reraise_write():
            self.fs.put_file(str(file), self.path)

    def download(self, file: Path) -> None:
        """Copy the object into a local file."""
        with self._reraise():
            self.fs.get_file(self.path, str(file))

    def size(self) -> int:
        """Return the number of bytes of the object."""
        with self._reraise():
            return int(self.fs.info(self.path)["size"])

    def read_range(self, start: int, end: int | None = None) -> bytes:
        """Return the bytes from `start` (from the end if negative) to `end`, or fewer if the object is shorter."""
        with self._reraise():
            try:
                part: bytes = self.fs.cat_file(self.path, start=start, end=end)
            except OSError as error:
                if error.errno != errno.EINVAL:  # S3's answer where an object ends before the range starts
                    raise
                return b""
        return part

    def stream(self, at_once: int) -> io.BytesIO | ObjectReader:
        """Return the bytes as a seekable stream: the first `at_once` in one request, the others when they are read."""
        head = self.read_range(0, at_once)
        if len(head) < at_once:
            return io.BytesIO(head)
        return ObjectReader(self, self.size(), head)

    def find(self) -> list[StoredPath]:
        """Return all objects below this name, sorted."""
        with self._reraise():
            found = self.fs.find(self.path, detail=True)
        names = [name for name, detail in sorted(found.items()) if detail["type"] == "file"]
        return [self / name[len(self.path) :].strip("/") for name in names]

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        with self._reraise():
            try:
                self.fs.rm_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_all(self) -> None:
        """Delete everything below this name."""
        with self._reraise():
            self.fs.rm(self.path, recursive=True)

    def _list(self, list_names: Any) -> Iterator[StoredPath]:
        try:
            with self._reraise():
                names = list_names()
        except FileNotFoundError:
            return  # an empty folder and a missing one are the same
        for name in names:
            if relative := name[len(self.path) :].strip("/"):
                yield self / relative

    def _reraise(self) -> Any:
        return reraise_as(str(self), StorageError, may_be_missing=True)

    @contextmanager
    def _reraise_write(self) -> Iterator[None]:
        try:
            with self._reraise():
                yield
        except FileNotFoundError as error:
            raise StorageError(
                f"{redact(str(self))} cannot be written: there is no such bucket; create it, or check the address"
            ) from error


def as_stored_path(path: Path) -> StoredPath | None:
    """Return `path` as the `StoredPath` that it is, or None for a local path."""
    value: object = path  # a StoredPath is typed as a Path; see `storage.resolve_path`
    return value if isinstance(value, StoredPath) else None


class ObjectReader(SeekableReader):
    """A stream of an object of `size` bytes: its `head` is in memory, and each read beyond that is one request."""

    def __init__(self, place: StoredPath, size: int, head: bytes) -> None:
        super().__init__(size)
        self._place, self._head = place, head

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the object, and return the number of bytes, which is smaller at its end."""
        view = memoryview(buffer).cast("B")
        end = min(self.position + len(view), self.size)
        part = self._head[self.position : end]
        if (start := self.position + len(part)) < end:
            part += self._place.read_range(start, end)
        view[: len(part)] = part
        self.position += len(part)
        return len(part)
