"""Commands that index, match and evaluate images."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from configs.images import ImageSettings
from configs.load import load_settings
from copytrace.cli.options import Config, Images, Overrides, Preset
from copytrace.cli.quick_start import leave_out_pandas, start_quickly
from copytrace.cli.run_output import print_cut, print_failures, print_missing


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
    start_quickly()
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
    start_quickly()
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.images import index_images as index  # noqa: PLC0415
    from copytrace.index.image_index import ImageIndex  # noqa: PLC0415

    root = index(references, out, settings, TerminalProgress())
    typer.echo(f"{len(ImageIndex.open(root).items):,} references are in {root}")
    print_failures(root / "failures.csv")


def compact_index(index: Annotated[str, typer.Argument(help="An index of images or of videos.")]) -> None:
    """Erase what was removed from an INDEX, and make it quicker to search."""
    leave_out_pandas()
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
