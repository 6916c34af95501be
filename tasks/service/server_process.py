"""A server as a process of ours: started, waited for, and stopped with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from copytrace.errors import CopytraceError

SECONDS_TO_START = 180.0
SECONDS_TO_STOP = 30.0
LINES_SHOWN = 3
PIDS = ".pid"


class ServerError(CopytraceError):
    """A server did not start, did not become healthy, or died."""


@dataclass
class ServerProcess:
    """One server; as a context manager it runs for the length of the block.

    It gets a session of its own, so that Ctrl-C at a terminal reaches only whoever stops the servers in their order.
    """

    name: str
    command: list[str]
    log: Path
    healthy: Callable[[], bool]
    environment: Mapping[str, str]
    folder: Path
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _family: list[psutil.Process] = field(default_factory=list, init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)

    def start(self) -> None:
        """Start it, after whatever an earlier start that was killed has left behind, and do not wait for it.

        Raises `ServerError` where its program is missing.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        end_leftovers(self._record)
        # As root, a server that refuses to be root becomes someone else before it begins.
        user = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - commands are ours
                    self.command,
                    cwd=self.folder,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_hear_interrupts,  # noqa: PLW1509 - it takes no lock
                    **user,  # type: ignore[call-overload]
                )
        except FileNotFoundError as error:
            raise ServerError(f"{self.name} cannot be started: there is no {error.filename}") from error
        started = psutil.Process(self._process.pid)
        left = f"{started.pid} {started.create_time()} {int(self.stop_signal)}\n"
        self._record.write_text(left, encoding="ascii")

    def wait(self, seconds: float = SECONDS_TO_START) -> None:
        """Return once it is healthy. Raises `ServerError` if it ends before, or is not healthy after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            if self.code is not None:
                raise ServerError(self.obituary())
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not healthy after {seconds:.0f} s; see {self.log}")
            time.sleep(0.2)

    @property
    def code(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll() if self._process else None

    def obituary(self) -> str:
        """Say in one line that it has ended, with the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = " / ".join([line.strip() for line in lines if line.strip()][-LINES_SHOWN:])
        return f"{self.name} ended with exit code {self.code}; see {self.log}, which ends: {last[-400:]}"

    def tell_to_stop(self) -> None:
        """Ask it to stop, and do not wait; `stop` then waits."""
        if self._process and self.code is None and not self._told:
            self._family = _descendants(self._process.pid)
            self._process.send_signal(self.stop_signal)
            self._told = True

    def stop(self) -> None:
        """Stop it and everything that it has started; do nothing if it does not run."""
        if not self._process:
            return
        self.tell_to_stop()
        if self.code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
        _end(self._family)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process, self._told, self._family = None, False, []
        self._record.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Start it and wait until it is healthy."""
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        self.stop()

    @property
    def _record(self) -> Path:
        return self.log.with_suffix(PIDS)


def end_leftovers(record: Path) -> None:
    """End what an earlier start has left running and noted in `record`, if whoever started it was killed."""
    # Only if the process of that number is still the one that was started: numbers are used again.
    try:
        pid, created, stop_signal = record.read_text(encoding="ascii").split()
        left = psutil.Process(int(pid))
        if abs(left.create_time() - float(created)) < 1:
            family = _descendants(left.pid)
            left.send_signal(int(stop_signal))
            psutil.wait_procs([left], timeout=SECONDS_TO_STOP)
            _end([left, *family])
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        record.unlink(missing_ok=True)


def answers(url: str) -> bool:
    """Return whether a GET of `url` succeeds."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _hear_interrupts() -> None:
    # A shell lets what it starts in the background ignore them, and that is inherited; a worker ends only by one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: Iterable[psutil.Process], patience: float = 5.0) -> None:
    """Ask them to end, and kill those who have not after `patience` seconds."""
    left = [process for process in processes if process.is_running()]
    for ending in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                ending(process)
        _, left = psutil.wait_procs(left, timeout=patience)
