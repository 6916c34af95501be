"""Decoding workers of this process: started when they are needed, ended if a file hangs or crashes them.

Files come from strangers, and decoders are written in C. So each file is decoded in another process, which may crash,
hang or run out of memory without harm to this one: see `decoding_worker`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import psutil

from copytrace.errors import CopytraceError, DecodingLimitError, MediaError, NotMediumError
from copytrace.media.decoding_channel import END, FORK, PROCESS, Array, Channel, Patience
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.sources import Source, open_source
from copytrace.runtime import decoder_threads

# `python -m` would look for the package in other places than this process does.
_PROGRAM = """
import importlib, json, sys
sys.path[:], control, *modules = json.loads(sys.argv[1])
imported = [importlib.import_module(module) for module in modules]
imported[0].start(control)
"""
DECODERS = ["copytrace.media.decoding_worker"]  # modules that workers have imported
# Threads of the libraries that the starter imports would make it unsafe to fork; glibc would reserve memory for each.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
# Memory of one picture serves the next: glibc would give it back to the kernel, which would clear it again. A worker
# that has had much is ended.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_SECONDS_TO_END = 5.0
_BUFFER = 4 << 20  # bytes of a picture that wait for its reader, as far as the kernel allows
_ATTEMPTS = 3  # at a file whose worker was ended by something else
_OTHERS = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}  # signals that a decoder does not send itself

Part = tuple[dict[str, Any], list[Array]]


def decode(
    call: str,
    path: str,
    settings: dict[str, Any],
    arrays: Sequence[Array] = (),
    *,
    limits: DecodingLimits,
    duration: float = 0.0,
) -> Iterator[Part]:
    """Let a worker decode a local file or a URI, and yield the parts that it sends: JSON, and arrays.

    `call` is one of `decoding_worker.CALLS`, and takes `settings` and `arrays`; `duration` is how many seconds of a
    video are read. The number of threads is the `threads` in `settings`, if there is one above 0, else that of
    `limits`. If the iterator is closed early, the worker is ended.

    Raises `MediaError` with a one-line reason, without the path, if the file cannot be read or decoded, that is
    `DecodingLimitError` if it crashes its decoder or exceeds the limits; and `CopytraceError` if no worker can be
    started.
    """
    threads = settings.get("threads") or limits.threads or decoder_threads()
    settings = settings | {"threads": threads}
    with open_source(path) as source:
        seconds = limits.processor_seconds(source.stored, duration)
        request = {"call": call, "name": path, "settings": settings, "size": source.size}
        request |= {"seconds": seconds, "memory": limits.memory}
        known = 0
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                for number, part in enumerate(_take_worker().decode(request, arrays, source, limits.stall)):
                    if number == known:  # another worker sends the same parts once more
                        known += 1
                        yield part
            except _EndedError as error:
                if attempt == _ATTEMPTS or not error.is_of_others:
                    raise DecodingLimitError(error.describe(limits, seconds)) from error
            except _MemoryError as error:
                memory = limits.describe_memory()
                raise DecodingLimitError(f"needs more than {memory} of memory to decode (media.max_memory)") from error
            else:
                return


def _take_worker() -> _Worker:
    for _ in range(_ATTEMPTS):
        with suppress(EOFError, ConnectionError):
            return _pools().current().take()
    raise CopytraceError(
        "the process that decodes files cannot be started, or is ended again and again; see what it wrote above"
    )


class _MemoryError(Exception):
    """A file needs more memory than it may have."""


class _EndedError(Exception):
    """A worker that ended, or was ended because it `hung`; `status` is what `wait` gives."""

    def __init__(self, status: int, hung: bool) -> None:
        super().__init__(status)
        code = os.waitstatus_to_exitcode(status)
        self.signal = -code if code < 0 else 0
        self.code, self.hung = code, hung
        self.is_of_others = self.signal in _OTHERS and not hung

    def describe(self, limits: DecodingLimits, seconds: float) -> str:
        """Return the reason as one line."""
        if self.hung:
            return f"the decoder hung for {limits.stall:,.0f} s (media.max_seconds)"
        if self.signal == signal.SIGPROF:
            return f"took longer than {seconds:,.0f} s of processor time to decode (media.max_seconds)"
        if self.signal == signal.SIGKILL:
            return "the decoder was killed, as if memory ran out (lower media.max_memory or media.threads)"
        if self.signal:
            return f"the decoder crashed (signal {self.signal})"
        return f"the decoder ended unexpectedly (exit status {self.code})"


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker process and the channel to it."""

    process: int
    channel: Channel
    pool: _Pool

    def decode(self, request: dict[str, Any], arrays: Sequence[Array], source: Source, stall: float) -> Iterator[Part]:
        """Send a request, yield the parts of the answer, and return the worker to its pool.

        A worker that does nothing for `stall` seconds has hung. Raises `_EndedError` and `_MemoryError`; on these, and
        if the iterator is closed, the worker is ended.
        """
        last: dict[str, Any] = {}
        status: int | None = None
        patience = Patience(stall, _Activity(self.process).has_grown)
        self.channel.most_bytes = request["memory"] << 20
        try:
            self.channel.send(request, arrays, file=source.descriptor, patience=patience)
            while not last:
                message, results, _ = self.channel.receive(patience)
                if "part" in message:
                    yield message["part"], results
                elif "read" in message:
                    data = np.frombuffer(source.read(*message["read"]), np.uint8)
                    self.channel.send({}, [data], patience=patience)
                else:
                    last = message
        except (EOFError, ConnectionError, ValueError, TimeoutError) as error:
            status = self.pool.end(self)
            raise _EndedError(status, isinstance(error, TimeoutError)) from None
        finally:
            if not last.get("end", True):
                self.pool.give_back(self)
            elif status is None:
                self.pool.let_go(self)
        _raise_reason(last)


class _Activity:
    """The processor time of a process."""

    def __init__(self, process: int) -> None:
        self._process, self._seconds = process, 0.0

    def has_grown(self) -> bool:
        """Return whether the process has computed since the last call, or waits for a processor."""
        try:
            process = psutil.Process(self._process)
            times = process.cpu_times()
            before, self._seconds = self._seconds, times.user + times.system
            return self._seconds > before or process.status() == psutil.STATUS_RUNNING
        except psutil.Error:
            return False  # it has ended


def _raise_reason(last: dict[str, Any]) -> None:
    if "passed over" in last:
        raise NotMediumError(last["passed over"])
    if "failed" in last:
        raise MediaError(" ".join(str(last["failed"]).split()))
    if "memory" in last:
        raise _MemoryError


class _Pool:
    """Idle workers, and the process that starts them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._left: list[int] = []  # workers that are to be ended
        self._is_broken = False
        self._control, theirs = socket.socketpair()
        with theirs:
            self._starter = subprocess.Popen(  # noqa: S603 - a fixed program
                [sys.executable, "-c", _PROGRAM, json.dumps([sys.path, theirs.fileno(), *DECODERS])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | _ONE_THREAD | _KEPT_MEMORY,
            )

    def is_usable(self) -> bool:
        """Return whether the starter still runs, and answers: while it dies, it only seems to run."""
        return not self._is_broken and self._starter.poll() is None

    def take(self) -> _Worker:
        """Return an idle worker, or a new one. Raises `EOFError` or `ConnectionError` if the starter has ended."""
        with suppress(IndexError):
            return self._idle.pop()
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        try:
            with theirs, self._lock, self._answered():
                self._end_left()
                self._control.sendall(FORK)
                socket.send_fds(self._control, [FORK], [theirs.fileno()])
                process = self._receive()
        except BaseException:
            ours.close()
            raise
        return _Worker(process, Channel(ours), self)

    def end(self, worker: _Worker) -> int:
        """End a worker and return its status, which may be what it ended with before."""
        worker.channel.close()
        with self._lock, suppress(EOFError, ConnectionError):
            return self._end(worker.process)
        return int(signal.SIGKILL)  # all workers end with their starter

    def give_back(self, worker: _Worker) -> None:
        """Keep an idle worker for the next file."""
        self._idle.append(worker)

    def let_go(self, worker: _Worker) -> None:
        """End a worker, now or when the next is started."""
        worker.channel.close()
        self._left.append(worker.process)
        # The garbage collector may call this at any time, also for an iterator that nobody reads on, in a thread that
        # has the lock.
        if self._lock.acquire(blocking=False):
            try:
                self._end_left()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the starter and all workers."""
        self._control.close()
        try:
            self._starter.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._starter.kill()
            self._starter.wait()

    def forget(self) -> None:
        """Leave the workers to the process that this one was forked from."""
        self._control.close()
        for worker in self._idle:
            worker.channel.close()

    def _end_left(self) -> None:
        with suppress(EOFError, ConnectionError):
            while self._left:
                self._end(self._left.pop())

    def _end(self, process: int) -> int:
        with self._answered():
            self._control.sendall(END + PROCESS.pack(process))
            return self._receive()

    def _receive(self) -> int:
        received = self._control.recv(PROCESS.size, socket.MSG_WAITALL)
        if len(received) < PROCESS.size:
            raise EOFError
        return int(PROCESS.unpack(received)[0])

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Note if the starter does not answer in the block."""
        try:
            yield
        except (EOFError, ConnectionError):
            self._is_broken = True
            raise


class _Pools:
    """The pool of this process, once there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: _Pool | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def current(self) -> _Pool:
        """Return the pool; start one if there is none, or its starter has ended."""
        with self._lock:
            if self._pool is None or not self._pool.is_usable():
                self._pool = _Pool()
            return self._pool

    def close(self) -> None:
        """End all workers; the next file starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.forget()


@cache
def _pools() -> _Pools:
    return _Pools()


def start_workers() -> None:
    """Begin to start the process that forks workers, if there is none; it imports the decoders meanwhile."""
    _pools().current()


def close_workers() -> None:
    """End all decoding workers of this process; the next file starts new ones."""
    _pools().close()
