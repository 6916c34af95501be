"""Arguments and options that commands and flows share."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer


def _settings_argument(example: str) -> Any:
    return typer.Argument(metavar="[NAME=VALUE]...", help=f"Settings, such as {example}.")


_MEDIA = "folder, glob, file, URI (s3://…), or CSV/Parquet manifest with columns id,path."

Images = typer.Argument(help=f"Images: a {_MEDIA}")
Videos = typer.Argument(help=f"Videos: a {_MEDIA}")
Photos = typer.Argument(help=f"Photos to learn from: a {_MEDIA}")
# Places are strings, because pathlib would turn s3://bucket into s3:/bucket.
TrainingFolder = typer.Option(
    help="Folder or s3://… for weights, figures and checkpoints; a second run continues from it."
)

Preset = Annotated[str, typer.Option(help="cpu, a100, or imgfp (the rules of the 2021 challenge's third place).")]
VideoPreset = Annotated[str, typer.Option(help="cpu, a100, or vsc22 (the rules of the 2022 challenge's first place).")]
DescriptorPreset = Annotated[str, typer.Option(help="cpu, a100, or imgfp (the fine-tuning of that team).")]
TrainingPreset = Annotated[str, typer.Option(help="cpu or a100.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings that override the preset.")]
Overrides = Annotated[list[str] | None, _settings_argument("global.references_per_query=5")]
VideoOverrides = Annotated[list[str] | None, _settings_argument("search.references_per_query=50")]
DescriptorOverrides = Annotated[list[str] | None, _settings_argument("loop.epochs=50 dimensions=512")]
OverlayOverrides = Annotated[list[str] | None, _settings_argument("loop.epochs=50")]
CodebookOverrides = Annotated[list[str] | None, _settings_argument("photos=500")]
MinImprovement = Annotated[float, typer.Option(min=0, help="Improvement over the champion that is required.")]
Runner = Annotated[
    str,
    typer.Option(
        help="Where the steps of shards run: threads, threads:2 (two shards at once), dask:2 (two processes), or the "
        "address of a Dask scheduler."
    ),
]

_GLOB = "GLOB of names (*.png) or of paths within the folder (raw/**); may be given several times."
_GLOBS = {
    "include": Annotated[list[str] | None, typer.Option(metavar="GLOB", help=f"Take only files that fit this {_GLOB}")],
    "exclude": Annotated[list[str] | None, typer.Option(metavar="GLOB", help=f"Leave out what fits this {_GLOB}")],
}


def choose_files(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with options --include and --exclude, which it gets as settings among its `overrides`."""

    @wraps(command)
    def run(*args: Any, include: list[str] | None = None, exclude: list[str] | None = None, **kwargs: Any) -> None:
        globs = {"include": include, "exclude": exclude}
        chosen = [f"media.{name}={json.dumps(given)}" for name, given in globs.items() if given]
        command(*args, **{**kwargs, "overrides": [*(kwargs.get("overrides") or []), *chosen]})

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _GLOBS.items()
    ]
    own = signature.parameters.values()
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
    del run.__wrapped__  # typer would read the parameters of the command itself
    return run
