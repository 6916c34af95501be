"""Commands that index, match and evaluate videos."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console

from configs.load import load_settings
from configs.videos import VideoSettings
from copytrace.cli.options import Config, VideoOverrides, VideoPreset, Videos
from copytrace.cli.quick_start import start_quickly
from copytrace.cli.run_output import print_cut, print_failures, print_missing
from copytrace.errors import InputError


def match_videos(
    queries: Annotated[str, Videos],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-videos.")],
    out: Annotated[str, typer.Option(help="Folder or s3://… for segments.csv, report.html and the rest.")],
    overrides: VideoOverrides = None,
    preset: VideoPreset = "cpu",
    config: Config = None,
) -> None:
    """Find which seconds of which REFERENCES the QUERIES show."""
    settings = load_settings(VideoSettings, preset, config, overrides or ())
    print_missing(preset, settings)
    start_quickly()
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415
    from copytrace.videos import match_videos as match  # noqa: PLC0415

    begin = time.perf_counter()
    run = match(queries, references, out, settings, TerminalProgress())
    counts = run["counts"]
    typer.echo(
        f"{counts['copied_segments']:,} copied segments in {counts['queries_with_copies']:,} of {counts['queries']:,}"
        f" queries, from {counts['references']:,} references, in {time.perf_counter() - begin:,.0f} s"
    )
    folder = resolve_path(out)
    typer.echo(f"  segments {folder / 'segments.csv'}")
    if (folder / "report.html").exists():
        typer.echo(f"  report   {folder / 'report.html'}")
    print_cut(run)
    print_failures(folder / "failures.csv", "videos")


def index_videos(
    references: Annotated[str, Videos],
    out: Annotated[str, typer.Option(help="Folder or s3://… of the index; an existing index is updated.")],
    overrides: VideoOverrides = None,
    preset: VideoPreset = "cpu",
    config: Config = None,
) -> None:
    """Describe REFERENCES once, so that many runs of match-videos can search them."""
    settings = load_settings(VideoSettings, preset, config, overrides or ())
    print_missing(preset, settings)
    start_quickly()
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.index.video_index import VideoIndex  # noqa: PLC0415
    from copytrace.videos import index_videos as index  # noqa: PLC0415

    root = index(references, out, settings, TerminalProgress())
    typer.echo(f"{len(VideoIndex.open(root).items):,} references are in {root}")
    print_failures(root / "failures.csv", "videos")


def evaluate_videos(
    ground_truth: Annotated[str, typer.Argument(help="CSV query_id,ref_id,query_start,query_end,ref_start,ref_end.")],
    segments: Annotated[str, typer.Argument(help="CSV, TSV or Parquet with the same columns and score.")],
    edits: Annotated[str | None, typer.Option(help="CSV query_id,edits, for figures by kind of edit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print segment AP and pair micro-AP (VSC 2022 rules)."""
    from copytrace.metrics.video_evaluation import evaluate_videos as measure  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    evaluation = measure(resolve_path(ground_truth), resolve_path(segments), resolve_path(edits) if edits else None)
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
    else:
        Console().print(evaluation.render())


def fit_pca(
    index: Annotated[str, typer.Argument(help="An index made by index-videos, of videos like yours.")],
    out: Annotated[str, typer.Option(help="The file to write; use it by descriptor.pca=FILE.")],
    dimensions: Annotated[int, typer.Option(min=1, help="Length of the shortened vectors.")] = 512,
) -> None:
    """Fit the principal components that shorten the vectors of an ensemble of descriptors."""
    import numpy as np  # noqa: PLC0415

    from copytrace.features.ensemble import fit_projection, write_projection  # noqa: PLC0415
    from copytrace.index.video_index import VideoIndex  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    opened = VideoIndex.open(resolve_path(index))
    if not opened.shards:
        raise InputError(f"{index} holds no frames; index some videos first")
    vectors = np.concatenate([opened.vectors(shard) for shard in opened.shards])
    write_projection(resolve_path(out), fit_projection(vectors, dimensions))
    typer.echo(f"{out} shortens {vectors.shape[1]} numbers to {dimensions}; fitted to {len(vectors):,} frames")


def import_pca(
    arrays: Annotated[str, typer.Argument(help="File .npz with mean_ and components_ of a PCA of scikit-learn.")],
    out: Annotated[str, typer.Option(help="The file to write; use it by descriptor.pca=FILE.")],
) -> None:
    """Make the principal components of an ensemble from those that scikit-learn fitted."""
    from copytrace.features.ensemble import write_projection  # noqa: PLC0415
    from copytrace.features.pca_exchange import read_sklearn_pca  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    projection = read_sklearn_pca(resolve_path(arrays))
    write_projection(resolve_path(out), projection)
    shorter, length = projection.components.shape
    typer.echo(f"{out} shortens {length} numbers to {shorter}")
