"""Decoding in processes of their own: their starter, and what a worker does with a request.

The starter is a small process that imports the decoders, and nothing else, and forks a worker whenever it is asked to.
It has one thread, so that forking is safe. A worker decodes one file at a time: see `CALLS`. Both end when the process
that uses them is gone, however it ended.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import cv2

from copytrace.errors import MediaError, NotMediumError
from copytrace.media.decoding_channel import END, FORK, PROCESS, Array, Channel
from copytrace.media.moments import read_moments
from copytrace.media.pictures import read_picture
from copytrace.media.timelines import LACK_OF_MEMORY
from copytrace.media.video_pictures import read_timed_pictures, read_video
from copytrace.seekable import SeekableReader

Parts = Iterator[tuple[Mapping[str, Any], list[Array]]]

# What a worker does: each takes an open file, its name, settings and arrays, and yields parts: JSON, and arrays.
CALLS: dict[str, Callable[[IO[bytes], str, dict[str, Any], list[Array]], Parts]] = {
    "picture": read_picture,
    "video": read_video,
    "timed pictures": read_timed_pictures,
    "moments": read_moments,
}

_KEPT = 256 << 20  # bytes of memory; a worker that has had more, and may still hold it, asks to be ended
_SECONDS_TO_END = 2.0
_BLOCK, _BLOCKS = 1 << 20, 64  # bytes read from a store at a time, and blocks that are kept
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of prctl(2)


def start(control: int) -> None:
    """Fork workers and end them, as asked over the socket with descriptor `control`, until its other end is closed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what the user of workers ignores or blocks is inherited
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    cv2.setNumThreads(1)
    gc.freeze()  # a worker that looked through what is imported would copy the memory that it shares with the starter
    with socket.socket(fileno=control) as asked:
        while request := asked.recv(1):
            if request == FORK:
                _fork(asked)
            elif request == END:
                (process,) = PROCESS.unpack(asked.recv(PROCESS.size, socket.MSG_WAITALL))
                asked.sendall(PROCESS.pack(_end(process)))
    os._exit(0)


def _end(process: int) -> int:
    """End a worker and return its status, which is what it ended with if it had ended before."""
    os.kill(process, signal.SIGKILL)  # it has not been waited for, so its id is its own
    last = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < last:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    return int(signal.SIGKILL)  # a disk that does not answer keeps it; it ends once that does


def _fork(asked: socket.socket) -> None:
    _, files, _, _ = socket.recv_fds(asked, 1, 1)
    starter = os.getpid()
    process = os.fork()
    if not process:
        asked.close()
        try:
            _work(socket.socket(fileno=files[0]), starter)
        finally:
            os._exit(1)
    os.close(files[0])
    asked.sendall(PROCESS.pack(process))


def _work(connection: socket.socket, starter: int) -> None:
    """Decode what is asked for until the other end is closed."""
    _end_with(starter)
    quiet = os.open(os.devnull, os.O_WRONLY)  # decoders write of damaged files, without their names
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # of all processes, the worker goes first if memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    channel, unused = Channel(connection, takes_files=True), _memory()["VmRSS"]
    while True:
        try:
            request, arrays, file = channel.receive()
            before, most = _memory(), request["memory"] << 20
            with _limits(request["seconds"], before["VmData"] + most):
                answer = _answer(channel, request, arrays, file)
            # Else circles of references keep files open, with their pictures and threads, while hundreds more are read.
            gc.collect()
            gc.freeze()  # so that the next file does not look through what decoders import or keep at their first one
            # Many of FFmpeg's decoders report a lack of memory as damage.
            if "failed" in answer and request["call"] != "picture" and _peak_since(before) > most // 2:
                answer = {"memory": True}
            worn = "memory" in answer or _most_resident() - unused > _KEPT
            channel.send(answer | {"end": worn})
        except (EOFError, ConnectionError):
            os._exit(0)


def _answer(channel: Channel, request: dict[str, Any], arrays: list[Array], file: int | None) -> dict[str, Any]:
    """Send the parts that are asked for, and return the last message, which says how it ended."""
    try:
        with _open(channel, request, file) as stream:
            for part, results in CALLS[request["call"]](stream, request["name"], request["settings"], arrays):
                channel.send({"part": part}, results)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file may make a decoder raise anything
        return _explain(error)
    return {"done": True}


def _explain(error: Exception) -> dict[str, Any]:
    if isinstance(error, NotMediumError):
        return {"passed over": str(error)}
    if isinstance(error, MediaError):
        return {"failed": str(error)}
    if isinstance(error, LACK_OF_MEMORY) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        return {"memory": True}
    if isinstance(error, OSError):
        return {"failed": f"cannot be read: {error.strerror or error}"}
    return {"failed": f"cannot be decoded: {type(error).__name__}: {error}"}


@contextmanager
def _limits(seconds: float, data: int) -> Iterator[None]:
    """Let the kernel end this process by SIGPROF after `seconds` of processor time; allow `data` bytes of memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (data, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def _open(channel: Channel, request: dict[str, Any], file: int | None) -> Iterator[IO[bytes]]:
    if file is None:
        yield io.BufferedReader(_SentFile(channel, request["size"]))
        return
    with os.fdopen(file, "rb") as stream:
        stream.seek(0)
        yield stream


class _SentFile(SeekableReader):
    """A file of `size` bytes that the other end of a channel reads, block by block; the last blocks are kept."""

    def __init__(self, channel: Channel, size: int) -> None:
        super().__init__(size)
        self._channel = channel
        self._blocks: dict[int, memoryview] = {}

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        number, start = divmod(self.position, _BLOCK)
        part = self._block(number)[start : start + len(view)] if self.position < self.size else b""
        view[: len(part)] = part
        self.position += len(part)
        return len(part)

    def _block(self, number: int) -> memoryview:
        if number not in self._blocks:
            self._channel.send({"read": [number * _BLOCK, _BLOCK]})
            _, (data,), _ = self._channel.receive()
            if len(self._blocks) == _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = data.data
        return self._blocks[number]


def _end_with(starter: int) -> None:
    """End this process when its parent, the starter, ends; where the kernel offers nothing, its socket is closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
        if os.getppid() != starter:
            os._exit(0)


def _most_resident() -> int:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def _peak_since(before: dict[str, int]) -> int:
    """Return by how many bytes the address space was larger at its peak than `before`; 0 if that peak was earlier."""
    peak = _memory()["VmPeak"]
    return peak - before["VmSize"] if peak > before["VmPeak"] else 0


def _memory() -> dict[str, int]:
    """Return the bytes of address space and of its peak, of data, and resident; zeros if the kernel does not tell."""
    sizes = dict.fromkeys(("VmPeak", "VmSize", "VmData", "VmRSS"), 0)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, size = line.partition(":")
            if name in sizes:
                sizes[name] = int(size.split()[0]) << 10
    return sizes
