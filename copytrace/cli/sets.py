"""Commands that make labeled sets, to evaluate, train or calibrate on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from copytrace.errors import CopytraceError

if TYPE_CHECKING:
    from copytrace.media.formats import MediumKind
    from copytrace.synthesis.edited_set import EditedSetPlan

Copies = Annotated[int, typer.Option(min=0, help="Number of queries that are copies.")]
Distractors = Annotated[int, typer.Option(min=0, help="Number of queries that are not copies.")]
Level = Annotated[str, typer.Option(help="mild (1-2 edits), hard (2-4 strong ones), or mixed.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same bytes on the same machine and versions.")]


def edit_images(
    photos: Annotated[str, typer.Argument(help="Photos to make copies of: folder, glob, URI or manifest.")],
    donors: Annotated[
        str, typer.Argument(help="Other photos, for copies to be pasted onto and for queries that are not copies.")
    ],
    out: Annotated[str, typer.Option(help="Folder or s3://… for queries/, ground_truth.csv and boxes.csv.")],
    copies: Copies = 200,
    distractors: Distractors = 100,
    difficulty: Level = "mixed",
    seed: Seed = 0,
) -> None:
    """Write edited copies of PHOTOS with their ground truth, to evaluate or calibrate on your own pictures."""
    from copytrace.synthesis.edited_set import EditedSetPlan, write_edited_set  # noqa: PLC0415

    _edit(write_edited_set, "image", photos, donors, out, EditedSetPlan(copies, distractors, difficulty, seed=seed))


def edit_videos(
    videos: Annotated[str, typer.Argument(help="Videos to copy from: folder, glob, URI or manifest.")],
    donors: Annotated[
        str, typer.Argument(help="Other videos, for footage around the copies and for queries that are not copies.")
    ],
    out: Annotated[str, typer.Option(help="Folder or s3://… for queries/, ground_truth.csv and edits.csv.")],
    copies: Copies = 100,
    distractors: Distractors = 30,
    difficulty: Level = "mixed",
    seed: Seed = 0,
) -> None:
    """Write videos that show edited parts of VIDEOS, with their ground truth, to evaluate or train on your footage."""
    from copytrace.synthesis.edited_set import EditedSetPlan  # noqa: PLC0415
    from copytrace.synthesis.edited_videos import write_edited_videos  # noqa: PLC0415

    _edit(write_edited_videos, "video", videos, donors, out, EditedSetPlan(copies, distractors, difficulty, seed=seed))


def draw_images(
    donors: Annotated[str, typer.Argument(help="Photos onto which some copies are pasted.")],
    out: Annotated[str, typer.Option(help="Folder or s3://… for references/, queries/ and ground_truth.csv.")],
    templates: Annotated[int, typer.Option(min=1, help="Templates of each kind, such as one program's windows.")] = 5,
    seed: Seed = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="A kind of pictures to draw; may be given several times. Default: all.")
    ] = None,
    encoded_again: Annotated[
        bool, typer.Option("--encoded-again", help="Copies are only encoded again, smaller or as JPEG, and not edited.")
    ] = False,
    photographed: Annotated[
        bool, typer.Option("--photographed", help="All pictures look as a phone's camera takes them.")
    ] = False,
) -> None:
    """Draw text, screens, figures, icons, patterns and plain pictures, copies of them, and others that look alike."""
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.media.files import list_media  # noqa: PLC0415
    from copytrace.runtime import usable_cores  # noqa: PLC0415
    from copytrace.storage import open_output  # noqa: PLC0415
    from copytrace.synthesis.drawn_set import PICTURE_KINDS, DrawnSetPlan, write_drawn_set  # noqa: PLC0415

    kinds = tuple(kind or PICTURE_KINDS)
    with open_output(out) as folder:
        write_drawn_set(
            list_media(donors, "image"),
            folder,
            DrawnSetPlan(
                templates=templates, kinds=kinds, seed=seed, encoded_again=encoded_again, photographed=photographed
            ),
            workers=usable_cores(),
            progress=TerminalProgress(),
        )
    typer.echo(f"references/, queries/ and their ground_truth.csv are in {folder}")


def draw_videos(
    out: Annotated[
        str, typer.Option(help="Folder or s3://… for references/, queries/, ground_truth.csv and edits.csv.")
    ],
    templates: Annotated[int, typer.Option(min=1, help="Templates of each kind, such as one program's window.")] = 2,
    seed: Seed = 0,
) -> None:
    """Draw videos of slides, rolling text, screens, titles and stills, copies of them, and others that look alike."""
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.runtime import usable_cores  # noqa: PLC0415
    from copytrace.storage import open_output  # noqa: PLC0415
    from copytrace.synthesis.drawn_videos import DrawnVideosPlan, write_drawn_videos  # noqa: PLC0415

    with open_output(out) as folder:
        plan = DrawnVideosPlan(templates=templates, seed=seed)
        write_drawn_videos(folder, plan, workers=usable_cores(), progress=TerminalProgress())
    typer.echo(f"references/, queries/ and their ground_truth.csv are in {folder}")


def video_stills(
    videos: Annotated[str, typer.Argument(help="Videos: folder, glob or manifest.")],
    out: Annotated[str, typer.Option(help="Folder or s3://… for a folder of JPEGs per video.")],
    every: Annotated[float, typer.Option(min=0.04, help="Seconds between stills.")] = 3.0,
) -> None:
    """Write stills of VIDEOS for training with photos.grouped=folder."""
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.media.files import list_media  # noqa: PLC0415
    from copytrace.media.stills import write_stills  # noqa: PLC0415
    from copytrace.storage import open_output  # noqa: PLC0415

    with open_output(out) as folder:
        count, failures = write_stills(list_media(videos, "video"), folder, every=every, progress=TerminalProgress())
    for video, reason in failures:
        typer.echo(f"  {video}: {reason}", err=True)
    if not count:
        raise CopytraceError(f"{videos} has no readable videos; give others")
    typer.echo(f"{count:,} stills are in {out}; train on them with photos.grouped=folder")


def _edit(
    write: Callable[..., Path], kind: MediumKind, sources: str, donors: str, out: str, plan: EditedSetPlan
) -> None:
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.media.files import list_media  # noqa: PLC0415
    from copytrace.runtime import usable_cores  # noqa: PLC0415
    from copytrace.storage import open_output  # noqa: PLC0415

    with open_output(out) as folder:
        write(
            list_media(sources, kind),
            list_media(donors, kind),
            folder,
            plan,
            workers=usable_cores(),
            progress=TerminalProgress(),
        )
    count = plan.copies + plan.distractors
    typer.echo(f"{count:,} queries are in {folder / 'queries'}, with their ground truth in ground_truth.csv")
