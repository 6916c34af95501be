"""A server as a child process: started, awaited, and stopped together with its descendants."""

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
PID_SUFFIX = ".pid"


class ServerError(CopytraceError):
    """A server did not start, did not become healthy, or died."""


@dataclass
class ServerProcess:
    """One server; as a context manager it runs for the length of the block.

    The server runs in its own session, so that Ctrl-C at a terminal reaches only the process that stops all servers in
    order.
    """

    name: str
    command: list[str]
    log: Path
    is_healthy: Callable[[], bool]
    environment: Mapping[str, str]
    folder: Path
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _descendants: list[psutil.Process] = field(default_factory=list, init=False, repr=False)
    _stop_requested: bool = field(default=False, init=False, repr=False)

    def start(self) -> None:
        """Start the server without waiting for it, after stopping what a killed earlier start left running.

        Raises `ServerError` if the program is missing.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        stop_leftovers(self._record)
        # PostgreSQL refuses to run as root.
        user = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    self.command,
                    cwd=self.folder,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_restore_interrupts,  # noqa: PLW1509 - it takes no lock
                    **user,  # type: ignore[call-overload]
                )
        except FileNotFoundError as error:
            raise ServerError(f"{self.name} cannot be started: there is no {error.filename}") from error
        started = psutil.Process(self._process.pid)
        record = f"{started.pid} {started.create_time()} {int(self.stop_signal)}\n"
        self._record.write_text(record, encoding="ascii")

    def wait(self, seconds: float = SECONDS_TO_START) -> None:
        """Return once the server is healthy. Raises `ServerError` if it ends before that, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            if self.exit_code is not None:
                raise ServerError(self.exit_message())
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not healthy after {seconds:.0f} s; see {self.log}")
            time.sleep(0.2)

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the server runs."""
        return self._process.poll() if self._process else None

    def exit_message(self) -> str:
        """Return one line that says that the server has ended, with the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = " / ".join([line.strip() for line in lines if line.strip()][-LINES_SHOWN:])
        return f"{self.name} ended with exit code {self.exit_code}; see {self.log}, which ends: {last[-400:]}"

    def request_stop(self) -> None:
        """Send the stop signal without waiting; `stop` waits."""
        if self._process and self.exit_code is None and not self._stop_requested:
            self._descendants = _find_descendants(self._process.pid)
            self._process.send_signal(self.stop_signal)
            self._stop_requested = True

    def stop(self) -> None:
        """Stop the server and its descendants; do nothing if it does not run."""
        if not self._process:
            return
        self.request_stop()
        if self.exit_code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_STOP)
        _terminate(self._descendants)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process, self._stop_requested, self._descendants = None, False, []
        self._record.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Start the server and wait until it is healthy."""
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the server."""
        self.stop()

    @property
    def _record(self) -> Path:
        return self.log.with_suffix(PID_SUFFIX)


def stop_leftovers(record: Path) -> None:
    """Stop the server that `record` names, with its descendants, if the process that started it was killed."""
    # Process ids are reused: the time of creation shows whether this is still the same process.
    try:
        pid, created, stop_signal = record.read_text(encoding="ascii").split()
        left = psutil.Process(int(pid))
        if abs(left.create_time() - float(created)) < 1:
            descendants = _find_descendants(left.pid)
            left.send_signal(int(stop_signal))
            psutil.wait_procs([left], timeout=SECONDS_TO_STOP)
            _terminate([left, *descendants])
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        record.unlink(missing_ok=True)


def responds(url: str) -> bool:
    """Return whether a GET of `url` succeeds."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _restore_interrupts() -> None:
    # Background jobs of a shell ignore SIGINT, and child processes inherit that; but a worker stops only on SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _find_descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _terminate(processes: Iterable[psutil.Process], patience: float = 5.0) -> None:
    """Terminate the processes, and kill those that still run after `patience` seconds."""
    left = [process for process in processes if process.is_running()]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=patience)
