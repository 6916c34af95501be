"""Progress of steps at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from copytrace.stall import StallGuard, end_if_stalled
from copytrace.step import StepProgress


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
        bars = Bars(*columns, console=Console(stderr=True))
        with bars, end_if_stalled(name, total, unit, _say) as guard:
            yield _TerminalStep(bars, bars.add_task(name, total=total, rate=""), unit, guard)


class _TerminalStep:
    def __init__(self, bars: Bars, task: TaskID, unit: str, guard: StallGuard) -> None:
        self._bars, self._task, self._unit, self._guard = bars, task, unit, guard

    def advance(self, count: int = 1) -> None:
        self._guard.advance(count)
        self._bars.advance(self._task, count)
        speed = self._bars.tasks[self._task].finished_speed or self._bars.tasks[self._task].speed
        self._bars.update(self._task, rate=f"{speed:,.0f} {self._unit}/s" if speed else "")

    def resize(self, total: int) -> None:
        self._guard.resize(total)
        self._bars.update(self._task, total=total)


def _say(reason: str) -> None:
    print(f"\ncopytrace: {reason}", file=sys.stderr, flush=True)
