"""Progress of long work: steps report it, and a terminal or Prefect shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class StepProgress(Protocol):
    """The progress of one step."""

    def advance(self, count: int = 1) -> None:
        """Report that `count` more units are done."""

    def resize(self, total: int) -> None:
        """Change the number of units that the step consists of."""


class Progress(Protocol):
    """A listener that shows steps: `with progress.step("describe references", 400, "images") as step: …`."""

    def step(self, name: str, total: int, unit: str) -> AbstractContextManager[StepProgress]:
        """Open a step of `total` units."""


class SilentProgress:
    """A listener that shows nothing: the default of the library."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Open a step that nothing shows."""
        yield _SilentStep()


class SharedProgress:
    """A listener that shows the same step of many shards as one.

    The total is extrapolated from the shards seen so far, and exact once the last one has begun.
    """

    def __init__(self, progress: Progress, shards: int) -> None:
        self._progress, self._shards = progress, shards
        self._begun, self._units = 0, 0
        self._shown: StepProgress | None = None
        self._stack = ExitStack()

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Add a shard's units to the step that all shards share."""
        self._begun += 1
        self._units += total
        if self._shown is None:
            self._shown = self._stack.enter_context(self._progress.step(name, self._expected_total(), unit))
        else:
            self._shown.resize(self._expected_total())
        yield self._shown

    def __enter__(self) -> SharedProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown is not None and error[0] is None:
            self._shown.resize(self._units)  # shards that were done already opened no step
        self._stack.close()

    def _expected_total(self) -> int:
        unseen = max(self._shards - self._begun, 0)
        return self._units + unseen * self._units // self._begun


class TerminalProgress:
    """A listener that shows a bar per step, with its rate and the time left, on standard error."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Open a bar of `total` units; it stays on the screen, with the time taken, when the step is over."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            yield _TerminalStep(bars, bars.add_task(name, total=total, rate=""), unit)


_SILENT = SilentProgress()
_listener: ContextVar[Progress] = ContextVar("progress")


@contextmanager
def listen(progress: Progress) -> Iterator[None]:
    """Let `progress` show the steps that begin in the block, in this thread."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def current_progress() -> Progress:
    """Return the listener of the innermost `listen` block; without one, a silent one."""
    return _listener.get(_SILENT)


class _SilentStep:
    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def resize(self, total: int) -> None:
        """Do nothing."""


class _TerminalStep:
    def __init__(self, bars: Bars, task: TaskID, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, count: int = 1) -> None:
        self._bars.advance(self._task, count)
        speed = self._bars.tasks[self._task].finished_speed or self._bars.tasks[self._task].speed
        self._bars.update(self._task, rate=f"{speed:,.0f} {self._unit}/s" if speed else "")

    def resize(self, total: int) -> None:
        self._bars.update(self._task, total=total)
