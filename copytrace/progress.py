"""How long stages tell that they advance: one small protocol, so that a terminal and Prefect can both listen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stage(Protocol):
    """A stage under way."""

    def advance(self, count: int = 1) -> None:
        """Say that `count` more units are done."""


class Progress(Protocol):
    """A listener that shows stages: `with progress.stage("describe references", 400, "images") as stage: …`."""

    def stage(self, name: str, total: int, unit: str) -> _StageContext:
        """Open a stage of `total` units."""


class _StageContext(Protocol):
    def __enter__(self) -> Stage: ...

    def __exit__(self, *exc: object) -> bool | None: ...


class _SilentStage:
    def advance(self, count: int = 1) -> None:
        return None


class SilentProgress:
    """Shows nothing; the default of the library."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        yield _SilentStage()


class TerminalProgress:
    """Shows a bar per stage, with its rate and what is left, on standard error."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        from rich import progress as rich_progress
        from rich.console import Console

        columns = (
            rich_progress.TextColumn("{task.description:<24}"),
            rich_progress.BarColumn(bar_width=30),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
            yield _TerminalStage(bars, bars.add_task(name, total=total, rate=""), unit)


class _TerminalStage:
    def __init__(self, bars: object, task: object, unit: str) -> None:
        self._bars, self._task, self._unit = bars, task, unit

    def advance(self, count: int = 1) -> None:
        bars, task = self._bars, self._task
        bars.advance(task, count)  # type: ignore[attr-defined]
        speed = bars.tasks[task].speed  # type: ignore[attr-defined]
        bars.update(task, rate=f"{speed:,.0f} {self._unit}/s" if speed else "")  # type: ignore[attr-defined]
