"""Commands of `copytrace` for the model registry, added through entry points: the library does not depend on MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="Registered model, such as copytrace-descriptor.")]


def promote(
    name: Name,
    version: Annotated[int | None, typer.Argument(help="Version number; by default the latest.")] = None,
    min_improvement: Annotated[
        float, typer.Option(min=0.0, help="Improvement over the champion that is required.")
    ] = 0.0,
    metric: Annotated[
        str | None, typer.Option(help="Validation figure that decides; by default the score of its training.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote regardless of the figures.")] = False,
) -> None:
    """Make VERSION the @champion that matching loads, if it validates better than the current one."""
    from tasks.promotion import promote as move  # noqa: PLC0415

    done = move(name, version, metric=metric, min_improvement=min_improvement, force=force)
    verdict = f"is {name}@champion" if done.promoted else "was refused"
    typer.echo(f"version {done.version} {verdict}: {done.reason}")
    if not done.promoted:
        raise typer.Exit(1)


def rollback(name: Name) -> None:
    """Make the previous champion the @champion again."""
    from tasks.promotion import rollback as move  # noqa: PLC0415

    done = move(name)
    typer.echo(f"version {done.version} is {name}@champion: {done.reason}")


def models(
    name: Annotated[str, typer.Argument(help="Registered model; % stands for any characters.")] = "copytrace-%",
) -> None:
    """List the registered versions with their figures, newest first."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from copytrace.object_store import redact  # noqa: PLC0415
    from tasks.mlflow_store import tracking_uri  # noqa: PLC0415
    from tasks.promotion import list_versions  # noqa: PLC0415

    where, versions = redact(tracking_uri()), list_versions(name)
    if not versions:
        typer.echo(f"no model like {name} is registered in MLflow at {where}")
        return
    tables: dict[str, Table] = {}
    for version, aliases in versions:
        columns = ("no.", "alias", "validated", "on set", "commit", "promotion", "registered")
        title = f"{version.name} in MLflow at {where}"
        table = tables.setdefault(version.name, Table(*columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0)))
        tags, registered = version.tags, datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        table.add_row(
            str(version.version),
            " ".join(f"@{alias}" for alias in aliases),
            _score(tags),
            tags.get("validation_digest", "")[:8],
            tags.get("git_commit", "")[:8],
            tags.get("promotion", ""),
            f"{registered:%Y-%m-%d}",
        )
    Console().print(*tables.values())


def _score(tags: Mapping[str, str]) -> str:
    score = tags.get("score", "")
    figure = tags.get(f"validation.{score}")
    return f"{score} {float(figure):.4f}" if figure else ""
