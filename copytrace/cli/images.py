"""Commands that index, match and evaluate images."""

from __future__ import annotations

import json
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from configs.images import ImageSettings
from configs.load import load_settings
from configs.presets import missing_parts
from configs.settings import Settings
from copytrace.cli.options import Config, Images, Overrides, Preset


def match_images(
    queries: Annotated[str, Images],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-images.")],
    out: Annotated[str, typer.Option(help="Folder or s3://… for matches.csv, report.html and the rest.")],
    overrides: Overrides = None,
    preset: Preset = "cpu",
    config: Config = None,
) -> None:
    """Find which REFERENCES the QUERIES were copied from."""
    settings = _settings(preset, config, overrides)
    leave_out_pandas()
    from copytrace.media.decoding_pool import start_workers  # noqa: PLC0415

    start_workers()  # they import what they need while this process does
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.images import match_images as match  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    begin = time.perf_counter()
    run = match(queries, references, out, settings, TerminalProgress())
    _print_summary(run, resolve_path(out), time.perf_counter() - begin)


def index_images(
    references: Annotated[str, Images],
    out: Annotated[str, typer.Option(help="Folder or s3://… of the index; an existing index is updated.")],
    overrides: Overrides = None,
    preset: Preset = "cpu",
    config: Config = None,
) -> None:
    """Describe REFERENCES once, so that many runs of match-images can search them."""
    settings = _settings(preset, config, overrides)
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.images import index_images as index  # noqa: PLC0415
    from copytrace.index.image_index import ImageIndex  # noqa: PLC0415

    root = index(references, out, settings, TerminalProgress())
    typer.echo(f"{len(ImageIndex.open(root).items):,} references are in {root}")
    print_failures(root / "failures.csv")


def compact_index(index: Annotated[str, typer.Argument(help="An index of images or of videos.")]) -> None:
    """Erase what was removed from an INDEX, and make it quicker to search."""
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.index.compaction import compact_index as compact  # noqa: PLC0415
    from copytrace.step import listen  # noqa: PLC0415
    from copytrace.storage import require_writable  # noqa: PLC0415

    with listen(TerminalProgress()):
        compacted = compact(require_writable(index))
    typer.echo(f"{len(compacted.items):,} {compacted.kind} are in {compacted.root}")


def evaluate_images(
    ground_truth: Annotated[str, typer.Argument(help="CSV query_id,reference_id[,kind]; no reference means no copy.")],
    matches: Annotated[str, typer.Argument(help="CSV, TSV or Parquet with query_id,reference_id,score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print micro-AP, recall at 90 % precision with its threshold, and recall per kind of edit (ISC 2021 rules)."""
    from copytrace.metrics.evaluation import evaluate_images as measure  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    evaluation = measure(resolve_path(ground_truth), resolve_path(matches))
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
    else:
        Console().print(evaluation.render())


def _settings(preset: str, config: Path | None, overrides: list[str] | None) -> ImageSettings:
    settings = load_settings(ImageSettings, preset, config, overrides or [])
    print_missing(preset, settings)
    return settings


def _print_summary(run: dict[str, Any], out: Path, seconds: float) -> None:
    counts = run["counts"]
    typer.echo(
        f"{counts['copies']:,} copies among {counts['queries']:,} queries and {counts['references']:,} references"
        f" in {seconds:,.0f} s"
    )
    typer.echo(f"  matches  {out / 'matches.csv'}")
    if (out / "report.html").exists():
        typer.echo(f"  report   {out / 'report.html'}")
    print_cut(run)
    print_failures(out / "failures.csv")


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas, which takes it half a second, until a table becomes a data frame.

    Where pandas is not imported yet, pyarrow imports it with the first array, to know its types, unless it finds none.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow  # noqa: PLC0415

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pyarrow.array([""])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def print_missing(preset: str, settings: Settings) -> None:
    """Print what a preset of a published system lacks of that system, to the error output."""
    if line := missing_parts(preset, settings):
        typer.echo(line, err=True)


def print_cut(run: dict[str, Any]) -> None:
    """Print which queries may be copies of more references than are listed, if any; `run` is a run's summary."""
    from copytrace.search.cut_lists import tell_cut  # noqa: PLC0415

    if told := tell_cut(run["cut_queries"]):
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
