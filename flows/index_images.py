"""Describe a collection of references once, so that many runs of match-images can search it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from configs.schema import ImageSettings
from copytrace.cli import options
from copytrace.features.media_index import Role
from flows.parameters import Media, Out, Overrides, Preset, chosen_by, settings_of
from flows.terminal import at_the_terminal
from tasks.describe import describe, finish
from tasks.ingest import ingest
from tasks.preprocess import preprocess

# The cast: Prefect's own types do not let its runners be passed to its flows.
ONE_SHARD_AT_A_TIME = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=1))
"""In one process: a stage uses all cores and the GPU by itself. A `DaskTaskRunner` here gives each machine a shard."""


@flow(name="index-images", flow_run_name="index {references}", task_runner=ONE_SHARD_AT_A_TIME)
def index_images(references: Media, out: Out, preset: Preset = "cpu", overrides: Overrides = {}) -> str:  # noqa: B006
    """Describe the references into the index folder `out`, or bring it up to date, and return it.

    Raises what `copytrace.image_matching.index_images` raises, and `SettingsError`.
    """
    settings, root = settings_of(ImageSettings, preset, overrides), Path(out)
    shards = ingest(references, root, "references", settings, replace=False)
    return str(describe_index(root, "references", shards, settings, failures=root / "failures.csv", indexes=[root]))


def describe_index(
    root: Path, role: Role, shards: Sequence[int], settings: ImageSettings, *, failures: Path, indexes: Sequence[Path]
) -> Path:
    """Run the tasks that describe the planned shards of an index, and return the finished index."""
    receipts = []
    for shard in shards:
        overlays = [preprocess.submit(root, shard, settings)] if role == "queries" else []
        receipts.append(describe.submit(root, shard, settings, return_state=False, wait_for=overlays))
    for receipt in receipts:
        receipt.result()
    return finish(root, settings, failures=failures, indexes=indexes)


def main(
    references: Annotated[str, options.Images],
    out: Annotated[Path, typer.Option(help="Folder of the index; one that exists is brought up to date.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
) -> None:
    """Describe REFERENCES once, as a Prefect flow."""
    with at_the_terminal():
        index = index_images(references, str(out), **chosen_by(ImageSettings, preset, config, overrides))
        typer.echo(f"the references are in {index}")


if __name__ == "__main__":
    typer.run(main)
