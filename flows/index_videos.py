"""Flow that describes a collection of reference videos once, for many runs of match-videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from configs.videos import VideoSettings
from copytrace import videos
from copytrace.cli import options
from flows.parameters import Media, Out, VideoOverrides, VideoPreset, flow_settings, parameters_from_cli
from flows.terminal import parse_runner, terminal_session
from tasks.artifacts import show_outputs
from tasks.runners import run_on
from tasks.video_steps import VIDEO_STEPS


@flow(name="index-videos", flow_run_name="index {references}")
def index_videos(
    references: Media,
    out: Out,
    preset: VideoPreset = "cpu",
    overrides: VideoOverrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> str:
    """Describe the references into the index folder `out`, or update an existing index, and return the folder.

    Steps: ingest, describe (shards), finish, index-segments.

    Raises what `copytrace.index_videos` raises, and `SettingsError`.
    """
    settings = flow_settings(VideoSettings, preset, overrides)
    with run_on(runner, VIDEO_STEPS) as steps:
        root = videos.index_videos(references, out, settings, runner=steps)
    show_outputs(root, "index-videos")
    return str(root)


def main(
    references: Annotated[str, options.Videos],
    out: Annotated[Path, typer.Option(help="Folder of the index; an existing index is updated.")],
    overrides: options.VideoOverrides = None,
    preset: options.VideoPreset = "cpu",
    config: options.Config = None,
    runner: options.Runner = "threads",
) -> None:
    """Describe REFERENCES once, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(VideoSettings, preset, config, overrides)
        index = index_videos(references, str(out), **chosen, runner=parse_runner(runner))
        typer.echo(f"the references are in {index}")


if __name__ == "__main__":
    typer.run(options.choose_files(main))
