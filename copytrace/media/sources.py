"""Files and objects in stores, opened for a decoding worker: a local file by its descriptor, an object by its bytes."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from copytrace.errors import MediaError, StorageError
from copytrace.media.failures import media_errors
from copytrace.media.stamps import stored_bytes
from copytrace.object_store import filesystem_of, is_bad_address, redact
from copytrace.storage import is_uri

READ_SECONDS = 45.0  # in which a store must answer a read, its client's own attempts included
PAUSES = (1.0, 5.0)  # seconds before a read that failed is tried again
PART = 4 << 20  # bytes that are fetched at a time

# The object is missing or may not be read, so that trying again would not help; of HTTP, the status says so.
_FINAL_ERRORS = (FileNotFoundError, PermissionError, ImportError)
_FINAL_STATUS = frozenset({401, 403, 404, 410})

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file of `size` bytes: a local one has a `descriptor`, and an object in a store is read by `read`.

    Of the bytes, `stored` take room on the disk or in the store. `read` takes an offset and a number of bytes, and
    raises errors as `open_source` does.
    """

    size: int
    stored: int
    descriptor: int | None
    read: Callable[[int, int], bytes]


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Open a local file or a URI that fsspec opens.

    Raises `MediaError` with a one-line reason, without the path, if it is missing, is no file, or may not be read. If a
    store fails in another way, or does not answer in time, it is tried again; `StorageError` is raised if that does not
    help, since the fault is not the file's.
    """
    if is_uri(path):
        stream = _StoredStream(path)
        try:
            size = stream.size()
            yield Source(size, size, None, stream.read)
        finally:
            stream.close()
        return
    with media_errors(path):
        place = Path(path)
        mode = place.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MediaError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        with ExitStack() as opened:
            file = opened.enter_context(place.open("rb", buffering=0))
            # Some files of the kernel are regular ones, and yet have no end.
            sizes = file.seek(0, 2), stored_bytes(file.fileno())
            close = opened.pop_all()  # errors of others, in the block below, are not of this file
    with close:
        yield Source(*sizes, file.fileno(), lambda offset, count: b"")


class _StoredStream:
    """An object in a store, which is read again if the store fails."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = _ReadingThread(path)

    def size(self) -> int:
        """Return the number of bytes of the object."""
        return self._retry(lambda stream: stream.seek(0, 2))

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, at most a part, or those up to the end of the object."""

        def read(stream: IO[bytes]) -> bytes:
            wanted = min(count, PART, max(0, stream.seek(0, 2) - offset))
            stream.seek(offset)
            data = stream.read(wanted)
            if len(data) < wanted:
                raise OSError(f"only {len(data)} of {wanted} bytes came")
            return data

        return self._retry(read)

    def close(self) -> None:
        """Close the stream, once its last read is done."""
        self._thread.close()

    def _retry(self, task: Callable[[IO[bytes]], T]) -> T:
        """Return what `task` does with the stream, after up to `len(PAUSES)` further attempts if the store fails."""
        pauses = iter(PAUSES)
        while True:
            try:
                return self._thread.run(task)
            except Exception as error:
                cause = self._cause(error)
                if is_bad_address(cause):
                    raise MediaError(f"its address is not that of a file ({type(cause).__name__})") from error
                if getattr(cause, "status", None) in _FINAL_STATUS or isinstance(cause, _FINAL_ERRORS):
                    with media_errors(self._path):
                        raise
                told = f"no answer in {READ_SECONDS:g} s" if isinstance(cause, TimeoutError) else type(cause).__name__
                pause = next(pauses, None)
                if pause is None:
                    raise StorageError(
                        f"{redact(self._path)} cannot be read now ({told}), though it was tried {len(PAUSES) + 1} "
                        "times; run the same command again, or leave this file out"
                    ) from error
                logger.warning("%s: %s; trying again in %g s", redact(self._path), told, pause)
            time.sleep(pause)
            self._thread.close()
            self._thread = _ReadingThread(self._path)

    def _cause(self, error: Exception) -> BaseException:
        # fsspec's HTTP store reports every failure as a missing file; the cause has the real reason.
        is_hidden = isinstance(error, FileNotFoundError) and self._path.startswith("http")
        return (error.__cause__ or error) if is_hidden else error


class _ReadingThread:
    """A thread that reads an object, since a client may wait for an answer without end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[IO[bytes]], Any]] | None] = SimpleQueue()
        # A daemon, so that a read that never ends does not keep the program from ending.
        threading.Thread(target=self._work, name="store", daemon=True).start()

    def run(self, task: Callable[[IO[bytes]], T]) -> T:
        """Return what `task` does with the stream. Raises `TimeoutError` if it takes too long."""
        outcome: Future[T] = Future()
        self._tasks.put((outcome, task))
        return outcome.result(READ_SECONDS)

    def close(self) -> None:
        """Close the stream, once its last read is done."""
        self._tasks.put(None)

    def _work(self) -> None:
        stream: IO[bytes] | None = None
        while (given := self._tasks.get()) is not None:
            outcome, task = given
            try:
                if stream is None:
                    store, key = filesystem_of(self._path)
                    stream = store.open(key, "rb", block_size=PART)
                outcome.set_result(task(stream))
            except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
                outcome.set_exception(error)
            del outcome, task, given
        if stream is not None:
            with suppress(Exception):
                stream.close()
