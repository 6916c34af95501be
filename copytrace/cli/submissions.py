"""Commands for the files of the challenges of 2021 and 2022: what they hold, and what other systems exchange."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from copytrace.errors import CopytraceError, InputError

Truth = Annotated[str, typer.Argument(help="The ground truth of the challenge: CSV of images, or of segments.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def submit_check(
    challenge: Annotated[Literal["disc21", "vsc22"], typer.Argument(help="disc21 (images) or vsc22 (videos).")],
    files: Annotated[list[str], typer.Argument(help="CSV of matches, or descriptors: HDF5 of images, .npz of videos.")],
    kind: Annotated[
        Literal["matching", "descriptors", "candidates", "ground-truth"] | None,
        typer.Option(help="What the files are; their content tells it, unless they are damaged."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(help="The queries: metadata with video_id,duration_sec, or a file with an id in each line."),
    ] = None,
    references: Annotated[str | None, typer.Option(help="The references, in the same form.")] = None,
    subset: Annotated[str | None, typer.Option(help="The queries of a subset: CSV video_id, or ids in lines.")] = None,
) -> None:
    """Say what the validators of a challenge say of FILES; exit with 1 if these are not valid."""
    from copytrace.cli.errors import USER_ERRORS  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415
    from copytrace.submissions.check import check_submission  # noqa: PLC0415
    from copytrace.submissions.media_lists import read_media_list  # noqa: PLC0415

    try:
        if subset and not queries:
            raise CopytraceError("--subset chooses among the queries; give --queries, too")
        part = resolve_path(subset) if subset else None
        query_list = read_media_list(resolve_path(queries), part) if queries else None
        reference_list = read_media_list(resolve_path(references)) if references else None
        checked = check_submission(
            challenge, [resolve_path(file) for file in files], kind=kind, queries=query_list, references=reference_list
        )
    except USER_ERRORS as error:
        typer.echo(f"copytrace: {error}", err=True)
        raise typer.Exit(2) from error
    for file in checked:
        if not file.faults:
            typer.echo(file.summary())
        for fault in file.faults:
            typer.echo(f"{file.path}: {fault}")
    if any(file.faults for file in checked):
        raise typer.Exit(1)


def export_matches(
    run: Annotated[str, typer.Argument(help="The output folder of match-images or match-videos.")],
    out: Annotated[str, typer.Option(help="The CSV file to write.")],
) -> None:
    """Write the matches of a RUN as a CSV for the matching track of 2021 (images) or 2022 (videos)."""
    from copytrace.storage import resolve_path  # noqa: PLC0415
    from copytrace.submissions.write import write_matches  # noqa: PLC0415

    challenge, rows = write_matches(resolve_path(run), resolve_path(out))
    typer.echo(f"{rows:,} matches are in {out}; check them with: copytrace submit-check {challenge} {out}")


def export_descriptors(
    index: Annotated[str, typer.Argument(help="An index of images or of videos, or a run's work/queries.")],
    references: Annotated[
        str | None, typer.Argument(help="Of images: an index of references, for a file with both, as in 2021.")
    ] = None,
    *,
    out: Annotated[str, typer.Option(help="The file to write: .npz of videos, HDF5 of images.")],
    panes: Annotated[bool, typer.Option(help="Of videos: also write the panes of queries, as further rows.")] = False,
    normalized: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Of videos: the output folder of match-videos; inner products are then its normalized scores, and "
            "queries that were not edited are replaced.",
        ),
    ] = None,
) -> None:
    """Write the descriptors of an index as a file of the challenges: .npz of videos, HDF5 of images."""
    from copytrace.index.media_index import read_provenance  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    root = resolve_path(index)
    if (read_provenance(root) or {}).get("kind") == "images":
        if panes or normalized:
            raise InputError("--panes and --normalized are for videos; leave them out")
        counts = _export_images(root, resolve_path(references) if references else None, resolve_path(out))
        typer.echo(f"descriptors of {' and '.join(counts)} are in {out}")
        return
    from copytrace.exchange.npz_exchange import export_npz  # noqa: PLC0415
    from copytrace.index.video_index import VideoIndex  # noqa: PLC0415

    if references:
        raise InputError("descriptors of videos have a file per index; give one index, and then the other")
    if normalized:
        from copytrace.submissions.track_descriptors import write_track_descriptors  # noqa: PLC0415

        count = write_track_descriptors(VideoIndex.open(root), resolve_path(normalized), resolve_path(out), panes=panes)
    else:
        count = export_npz(VideoIndex.open(root), resolve_path(out), panes=panes)
    typer.echo(f"{count:,} descriptors are in {out}")


def _export_images(root: Path, references: Path | None, out: Path) -> list[str]:
    from copytrace.exchange.hdf5_exchange import export_hdf5  # noqa: PLC0415
    from copytrace.exchange.hdf5_files import Side  # noqa: PLC0415
    from copytrace.index.image_index import ImageIndex  # noqa: PLC0415

    opened = ImageIndex.open(root)
    first: Side = "queries" if references else opened.provenance["role"]
    sides = {first: opened} | ({"references": ImageIndex.open(references)} if references else {})
    return [f"{count:,} {side}" for side, count in export_hdf5(sides, out).items()]


def import_descriptors(
    npz: Annotated[str, typer.Argument(help="File with video_ids, timestamps and features, as in the 2022 challenge.")],
    out: Annotated[str, typer.Option(help="Folder or s3://… of the new index, for match-videos.")],
    model: Annotated[
        str, typer.Option(help="Name of the model that made them; only descriptors of the same model are compared.")
    ],
    typical_noise: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Mean cosine similarity of a frame to its nearest unrelated frames."),
    ] = None,
    role: Annotated[
        Literal["queries", "references"], typer.Option(help="Role of the videos in matching.")
    ] = "references",
) -> None:
    """Make an index of videos from descriptors that another system wrote."""
    from copytrace.exchange.npz_exchange import import_npz  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    index = import_npz(resolve_path(npz), resolve_path(out), role, model=model, typical_noise=typical_noise)
    typer.echo(f"{len(index.items):,} videos are in {out}")


def evaluate_descriptors(
    ground_truth: Truth,
    descriptors: Annotated[str, typer.Argument(help="HDF5 of images, or the .npz file of query videos.")],
    references: Annotated[str | None, typer.Argument(help="Of videos: the .npz file of references.")] = None,
    pairs: Annotated[str | None, typer.Option(help="CSV to write, of the pairs that were judged.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print micro-AP of descriptors by the rules of the descriptor tracks of 2021 (images) or 2022 (videos)."""
    from copytrace.exchange.hdf5_files import is_hdf5  # noqa: PLC0415
    from copytrace.metrics import descriptor_evaluation as metrics  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    truth, first = resolve_path(ground_truth), resolve_path(descriptors)
    if not first.is_file():
        raise InputError(f"no such file: {first}; give an HDF5 file of images, or two .npz files of videos")
    evaluation: Any
    if is_hdf5(first):
        evaluation, judged = metrics.evaluate_image_descriptors(truth, first)
        if pairs:
            metrics.write_predictions(resolve_path(pairs), judged)
    elif references:
        evaluation, videos = metrics.evaluate_video_descriptors(truth, first, resolve_path(references))
        if pairs:
            videos.write(resolve_path(pairs))
    else:
        raise InputError(f"{first} has one side only; give the .npz file of references, too")
    _print(evaluation, as_json)


def evaluate_candidates(
    ground_truth: Annotated[str, typer.Argument(help="CSV with query_id,ref_id: a row per pair, or per segment.")],
    candidates: Annotated[str, typer.Argument(help="CSV, TSV or Parquet with query_id,ref_id,score.")],
    as_json: AsJson = False,
) -> None:
    """Print micro-AP of scored pairs of videos (VSC 2022 rules)."""
    from copytrace.metrics import descriptor_evaluation as metrics  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415

    _print(metrics.evaluate_candidates(resolve_path(ground_truth), resolve_path(candidates)), as_json)


def _print(evaluation: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=2))
    else:
        Console().print(evaluation.render())
