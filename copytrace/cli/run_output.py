"""What commands print of a run besides its results: what it lacked, what was cut, and what could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from configs.presets import missing_parts
from configs.settings import Settings


def print_missing(preset: str, settings: Settings) -> None:
    """Print what a preset of a published system lacks of that system, to the error output."""
    if line := missing_parts(preset, settings):
        typer.echo(line, err=True)


def print_cut(run: dict[str, Any]) -> None:
    """Print which queries may be copies of more references than are listed, if any; `run` is a run's summary."""
    from copytrace.search.cut_lists import describe_cut  # noqa: PLC0415

    if told := describe_cut(run["cut_queries"]):
        typer.echo(f"  {told}")


def print_failures(path: Path, kind: str = "images") -> None:
    """Print how many files could not be read, and how many were passed over, if any."""
    from copytrace.index.odd_files import PASSED_OVER, count_passed_over  # noqa: PLC0415
    from copytrace.media.failures import read_failures  # noqa: PLC0415

    if failures := len(read_failures(path)):
        typer.echo(f"  {_count(failures, 'file')} could not be read, or not to the end: {path}")
    passed_over, where = count_passed_over(path), path.with_name(PASSED_OVER)
    if count := passed_over["files"]:
        which = f"is no {kind[:-1]}" if count == 1 else f"are no {kind}"
        typer.echo(f"  passed over {_count(count, 'file')} that {which}: {where}")
    if count := passed_over["links"]:
        typer.echo(f"  passed over {_count(count, 'link')} to what is searched anyway: {where}")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
