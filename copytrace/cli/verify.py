"""The command that looks for damage, and repairs it."""

from __future__ import annotations

from typing import Annotated

import typer

from copytrace.cli.quick_start import leave_out_pandas
from copytrace.errors import CopytraceError


def verify(
    folder: Annotated[str, typer.Argument(help="An index, or the output folder of a run.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete what is damaged, so that it alone is made again.")
    ] = False,
) -> None:
    """Read all of FOLDER and name the files that are damaged or missing."""
    leave_out_pandas()
    from contextlib import nullcontext  # noqa: PLC0415

    from copytrace.lease import find_holder, hold_lease  # noqa: PLC0415
    from copytrace.storage import resolve_path  # noqa: PLC0415
    from copytrace.verify import delete_damaged, find_damage, folders_of  # noqa: PLC0415

    root = resolve_path(folder)
    if not repair and (holder := find_holder(root)):
        typer.echo(f"{root} is being written by {holder}; files that it replaces meanwhile may seem damaged", err=True)
    with hold_lease(*folders_of(root)) if repair else nullcontext():
        damages = find_damage(root)
        for damage in damages:
            typer.echo(f"{damage.path} is {damage.what}: {damage.cure}")
        if not damages:
            typer.echo(f"{root} is whole")
        elif repair:
            delete_damaged(damages)
            typer.echo("what was damaged is deleted; run the command that made the folder to make it again")
    if damages and not repair:
        raise CopytraceError(
            f"{len(damages):,} files in {root} are damaged or missing; run `copytrace verify {root} --repair`, and "
            "then the command that made the folder: only these are made again"
        )
