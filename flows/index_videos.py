"""Describe a collection of reference videos once, so that many runs of match-videos can search it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from configs.videos import VideoSettings
from copytrace.cli import options
from flows.index_images import ONE_SHARD_AT_A_TIME
from flows.parameters import Media, Out, VideoOverrides, VideoPreset, chosen_by, settings_of
from flows.terminal import at_the_terminal
from tasks.describe import describe_videos, finish_videos
from tasks.ingest import ingest_videos


@flow(name="index-videos", flow_run_name="index {references}", task_runner=ONE_SHARD_AT_A_TIME)
def index_videos(references: Media, out: Out, preset: VideoPreset = "cpu", overrides: VideoOverrides = {}) -> str:  # noqa: B006
    """Describe the references into the index folder `out`, or bring it up to date, and return it.

    Raises what `copytrace.video_matching.index_videos` raises, and `SettingsError`.
    """
    settings, root = settings_of(VideoSettings, preset, overrides), Path(out)
    shards = ingest_videos(references, root, "references", settings, replace=False)
    return str(describe_index(root, shards, settings, failures=root / "failures.csv", indexes=[root]))


def describe_index(
    root: Path, shards: Sequence[int], settings: VideoSettings, *, failures: Path, indexes: Sequence[Path]
) -> Path:
    """Run the tasks that describe the planned shards of an index, and return the finished index."""
    receipts = [describe_videos.submit(root, shard, settings) for shard in shards]
    for receipt in receipts:
        receipt.result()
    return finish_videos(root, settings, failures=failures, indexes=indexes)


def main(
    references: Annotated[str, options.Videos],
    out: Annotated[Path, typer.Option(help="Folder of the index; one that exists is brought up to date.")],
    overrides: options.Overrides = None,
    preset: options.VideoPreset = "cpu",
    config: options.Config = None,
) -> None:
    """Describe REFERENCES once, as a Prefect flow."""
    with at_the_terminal():
        index = index_videos(references, str(out), **chosen_by(VideoSettings, preset, config, overrides))
        typer.echo(f"the references are in {index}")


if __name__ == "__main__":
    typer.run(main)
