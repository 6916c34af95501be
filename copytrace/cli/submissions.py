"""Commands for the files of the challenges of 2021 and 2022."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from copytrace.errors import CopytraceError


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
