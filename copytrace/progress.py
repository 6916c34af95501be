"""How long stages tell that they advance: one small protocol, so that a terminal and Prefect can both listen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Stage(Protocol):
    """A stage under way."""

    def advance(self, count: int = 1) -> None:
        """Say that `count` more units are done."""


class Progress(Protocol):
    """A listener that shows stages: `with progress.stage("describe references", 400, "images") as stage: …`."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Stage]:
        """Open a stage of `total` units."""


class SilentProgress:
    """Shows nothing; the default of the library."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        """Open a stage that is shown nowhere."""
        yield _SilentStage()


class SharedProgress:
    """Counts the stages of single shards towards one stage that is shown for all of them."""

    def __init__(self, whole: Stage) -> None:
        self._whole = whole

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        """Hand out the stage that is under way already."""
        yield self._whole


class TerminalProgress:
    """Shows a bar per stage, with its rate and what is left, on standard error."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        """Open a bar of `total` units; it stays on the screen, with the time taken, when the stage is over."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            yield _TerminalStage(bars, bars.add_task(name, total=total, rate=""), unit)


class _SilentStage:
    def advance(self, count: int = 1) -> None:
        """Do nothing."""


class _TerminalStage:
    def __init__(self, bars: Bars, task: TaskID, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, count: int = 1) -> None:
        self._bars.advance(self._task, count)
        speed = self._bars.tasks[self._task].finished_speed or self._bars.tasks[self._task].speed
        self._bars.update(self._task, rate=f"{speed:,.0f} {self._unit}/s" if speed else "")
