"""Files and objects in stores, opened for a decoding worker: a local file by its descriptor, an object by its bytes."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from copytrace.errors import MediaError
from copytrace.media.failures import media_errors
from copytrace.storage import is_uri, open_file

READ_SECONDS = 90.0  # in which a store must answer a read, its client's own attempts included
LONGEST_READ = 1 << 23  # bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file of `size` bytes: a local one has a `descriptor`, and an object in a store is read by `read`.

    `read` takes an offset and a number of bytes, and raises `MediaError` if the store fails.
    """

    size: int
    descriptor: int | None
    read: Callable[[int, int], bytes]


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Open a local file or a URI that fsspec opens.

    Raises `MediaError` with a one-line reason, without the path, if it is missing, is no file, or cannot be read. A
    store that does not answer in time cannot be read either.
    """
    if is_uri(path):
        stream = _StoredStream(path)
        try:
            yield Source(stream.size(), None, stream.read)
        finally:
            stream.close()
        return
    with media_errors(path):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise MediaError("a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed below; errors of others are not of this file
    with file:
        yield Source(file.seek(0, 2), file.fileno(), lambda offset, count: b"")


class _StoredStream:
    """An object in a store, read in a thread of its own, since a client may wait for an answer without end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stream: IO[bytes] | None = None
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[IO[bytes]], Any]] | None] = SimpleQueue()
        # A daemon, so that a read that never ends does not keep the program from ending.
        threading.Thread(target=self._work, name="store", daemon=True).start()

    def size(self) -> int:
        """Return the number of bytes of the object."""
        return self._do(lambda stream: stream.seek(0, 2))

    def read(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset` on."""

        def read(stream: IO[bytes]) -> bytes:
            stream.seek(offset)
            return stream.read(min(count, LONGEST_READ))

        return self._do(read)

    def close(self) -> None:
        """Close the stream, once the thread has done its last read."""
        self._tasks.put(None)

    def _do(self, task: Callable[[IO[bytes]], T]) -> T:
        outcome: Future[T] = Future()
        self._tasks.put((outcome, task))
        with media_errors(self._path):
            try:
                return outcome.result(READ_SECONDS)
            except TimeoutError as error:
                if outcome.done():
                    raise  # it is the store's
                raise MediaError(f"cannot be fetched: the store did not answer in {READ_SECONDS:.0f} s") from error

    def _work(self) -> None:
        while (given := self._tasks.get()) is not None:
            outcome, task = given
            try:
                self._stream = self._stream or open_file(self._path)
                outcome.set_result(task(self._stream))
            except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
                outcome.set_exception(error)
            del outcome, task, given
        if self._stream is not None:
            with suppress(Exception):
                self._stream.close()
