"""Describe a collection of references once, so that many runs of match-images can search it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from configs.images import ImageSettings
from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from copytrace.cli import options
from copytrace.index.media_index import Role
from flows.parameters import Media, Out, Overrides, Preset, flow_settings, parameters_from_cli
from flows.terminal import RunnerOption, parse_runner, terminal_session
from tasks.describe import describe, finish
from tasks.ingest import ingest
from tasks.outputs import show_outputs
from tasks.preprocess import preprocess
from tasks.runners import Shards, shards_on
from tasks.storage_access import require_writable


@flow(name="index-images", flow_run_name="index {references}")
def index_images(
    references: Media,
    out: Out,
    preset: Preset = "cpu",
    overrides: Overrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> str:
    """Describe the references into the index folder `out`, or bring it up to date, and return it.

    Raises what `copytrace.images.index_images` raises, and `SettingsError`.
    """
    settings, root = flow_settings(ImageSettings, preset, overrides), require_writable(out)
    with shards_on(runner) as shards:
        planned = ingest(references, root, "references", settings, replace=False)
        describe_index(shards, root, "references", planned, settings)
    finish(root, settings, failures=root / "failures.csv", indexes=[root])
    show_outputs(root, "index-images")
    return str(root)


def describe_index(shards: Shards, root: Path, role: Role, planned: Sequence[int], settings: ImageSettings) -> None:
    """Run the stages that describe the planned shards of an index."""
    stages = [preprocess, describe] if role == "queries" else [describe]
    shards.each(planned, *stages, root=root, settings=settings)


def main(
    references: Annotated[str, options.Images],
    out: Annotated[Path, typer.Option(help="Folder of the index; one that exists is brought up to date.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
    runner: RunnerOption = "threads",
) -> None:
    """Describe REFERENCES once, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(ImageSettings, preset, config, overrides)
        index = index_images(references, str(out), **chosen, runner=parse_runner(runner))
        typer.echo(f"the references are in {index}")


if __name__ == "__main__":
    typer.run(main)
