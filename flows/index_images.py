"""Flow that describes a collection of reference images once, for many runs of match-images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from configs.images import ImageSettings
from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from copytrace import images
from copytrace.cli import options
from flows.parameters import Media, Out, Overrides, Preset, flow_settings, parameters_from_cli
from flows.terminal import parse_runner, terminal_session
from tasks.artifacts import show_outputs
from tasks.image_steps import IMAGE_STEPS
from tasks.runners import run_on


@flow(name="index-images", flow_run_name="index {references}")
def index_images(
    references: Media,
    out: Out,
    preset: Preset = "cpu",
    overrides: Overrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> str:
    """Describe the references into the index folder `out`, or update an existing index, and return the folder.

    Steps: ingest, describe (shards), finish, index-segments. What an older version described is also taken through
    add-thumbnails.

    Raises what `copytrace.index_images` raises, and `SettingsError`.
    """
    settings = flow_settings(ImageSettings, preset, overrides)
    with run_on(runner, IMAGE_STEPS) as steps:
        root = images.index_images(references, out, settings, runner=steps)
    show_outputs(root, "index-images")
    return str(root)


def main(
    references: Annotated[str, options.Images],
    out: Annotated[Path, typer.Option(help="Folder of the index; an existing index is updated.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
    runner: options.Runner = "threads",
) -> None:
    """Describe REFERENCES once, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(ImageSettings, preset, config, overrides)
        index = index_images(references, str(out), **chosen, runner=parse_runner(runner))
        typer.echo(f"the references are in {index}")


if __name__ == "__main__":
    typer.run(options.choose_files(main))
