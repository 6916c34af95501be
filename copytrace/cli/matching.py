"""The command line. It stays light: heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from configs.load import SettingsError, load_settings
from configs.schema import ImageSettings
from copytrace.errors import CopytraceError

app = typer.Typer(help="Find which reference an upload was copied from.", no_args_is_help=True)
evaluate = typer.Typer(help="Measure matches against a ground truth.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")

Preset = Annotated[str, typer.Option(help="cpu, a100, or imgfp (the rules of the 2021 challenge's third place).")]
Config = Annotated[Path | None, typer.Option(help="A YAML file of settings, over the preset.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, such as global.references_per_query=5.")
]
Images = typer.Argument(help="Folder, glob, file, URI (s3://…), or CSV/Parquet manifest with columns id,path.")


@app.command()
def match_images(
    queries: Annotated[str, Images],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-images.")],
    out: Annotated[Path, typer.Option(help="Folder for matches.csv, report.html and the rest.")],
    overrides: Overrides = None,
    preset: Preset = "cpu",
    config: Config = None,
) -> None:
    """Find which REFERENCES the QUERIES were copied from."""
    with _clear_errors():
        settings = _settings(preset, config, overrides)
        from copytrace.image_matching import match_images as match  # noqa: PLC0415
        from copytrace.progress import TerminalProgress  # noqa: PLC0415

        begin = time.perf_counter()
        run = match(queries, references, out, settings, TerminalProgress())
        _tell(run, out, time.perf_counter() - begin)


@app.command()
def index_images(
    references: Annotated[str, Images],
    out: Annotated[Path, typer.Option(help="Folder of the index; one that exists is brought up to date.")],
    overrides: Overrides = None,
    preset: Preset = "cpu",
    config: Config = None,
) -> None:
    """Describe REFERENCES once, so that many runs of match-images can search them."""
    with _clear_errors():
        settings = _settings(preset, config, overrides)
        from copytrace.features.image_index import ImageIndex  # noqa: PLC0415
        from copytrace.image_matching import index_images as index  # noqa: PLC0415
        from copytrace.progress import TerminalProgress  # noqa: PLC0415

        root = index(references, out, settings, TerminalProgress())
        typer.echo(f"{len(ImageIndex.open(root).items):,} references are in {root}")
        _tell_failures(root / "failures.csv")


@evaluate.command("images")
def evaluate_images(
    ground_truth: Annotated[Path, typer.Argument(help="CSV query_id,reference_id[,kind]; no reference means no copy.")],
    matches: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet with query_id,reference_id,score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print micro-AP, recall at 90 % precision with its threshold, and recall per kind of edit (ISC 2021 rules)."""
    with _clear_errors():
        from copytrace.metrics.evaluation import evaluate_images as measure  # noqa: PLC0415

        evaluation = measure(ground_truth, matches)
        if as_json:
            typer.echo(json.dumps(evaluation.to_json(), indent=2))
        else:
            Console().print(evaluation.render())


@app.command()
def edit_images(
    photos: Annotated[str, typer.Argument(help="Photos to make copies of: folder, glob, URI or manifest.")],
    donors: Annotated[
        str, typer.Argument(help="Other photos: what copies are pasted onto, and queries that are none.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for queries/, ground_truth.csv and boxes.csv.")],
    copies: Annotated[int, typer.Option(min=0)] = 200,
    distractors: Annotated[int, typer.Option(min=0, help="Queries that are copies of none of the photos.")] = 100,
    difficulty: Annotated[str, typer.Option(help="mild (1-2 edits), hard (2-4 strong ones), or mixed.")] = "mixed",
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write edited copies of PHOTOS with their ground truth, to measure or calibrate on your own pictures."""
    with _clear_errors():
        from copytrace.features.runtimes import usable_cores  # noqa: PLC0415
        from copytrace.media.ingest import list_images  # noqa: PLC0415
        from copytrace.progress import TerminalProgress  # noqa: PLC0415
        from copytrace.training.edited_set import write_edited_set  # noqa: PLC0415

        write_edited_set(
            list_images(photos),
            list_images(donors),
            out,
            copies=copies,
            distractors=distractors,
            difficulty=difficulty,
            seed=seed,
            workers=usable_cores(),
            progress=TerminalProgress(),
        )
        typer.echo(f"{copies + distractors:,} queries are in {out / 'queries'}, their answers in ground_truth.csv")


@app.command()
def calibrate(
    runs: Annotated[list[Path], typer.Argument(help="RUN GROUND_TRUTH pairs: a match-images folder and its truth.")],
    out: Annotated[Path, typer.Option(help="The calibration file to write; use it by merge.calibration=FILE.")],
) -> None:
    """Fit the score, as a probability, to your own photos with known copies."""
    with _clear_errors():
        if len(runs) % 2:
            raise CopytraceError("give pairs of a run's folder and its ground truth CSV")
        from copytrace.training.calibration import fit_calibration  # noqa: PLC0415

        error = fit_calibration(list(zip(runs[::2], runs[1::2], strict=True)), out)
        typer.echo(f"{out} written; expected calibration error {error:.4f} on the pairs it was fitted to")


def _settings(preset: str, config: Path | None, overrides: list[str] | None) -> ImageSettings:
    return load_settings(preset, config, overrides or [])


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the errors that users can mend into one line and exit code 1."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        yield
    except (CopytraceError, SettingsError) as error:
        print(f"copytrace: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except OSError as error:
        print(
            f"copytrace: {error}; what was finished is kept, and the same command goes on from there", file=sys.stderr
        )
        raise typer.Exit(1) from error


def _tell(run: dict[str, Any], out: Path, seconds: float) -> None:
    counts = run["counts"]
    typer.echo(
        f"{counts['copies']:,} copies among {counts['queries']:,} queries and {counts['references']:,} references"
        f" in {seconds:,.0f} s"
    )
    typer.echo(f"  matches  {out / 'matches.csv'}")
    if (out / "report.html").exists():
        typer.echo(f"  report   {out / 'report.html'}")
    _tell_failures(out / "failures.csv")


def _tell_failures(path: Path) -> None:
    failures = sum(1 for _ in path.open(encoding="utf-8")) - 1
    if failures:
        typer.echo(f"  {failures:,} files could not be read: {path}")
