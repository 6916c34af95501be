"""Flow that finds which seconds of which references the query videos show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from configs.videos import VideoSettings
from copytrace import videos
from copytrace.cli import options
from flows.parameters import Media, Out, References, VideoOverrides, VideoPreset, flow_settings, parameters_from_cli
from flows.terminal import parse_runner, terminal_session
from tasks.artifacts import show_outputs
from tasks.runners import run_on
from tasks.storage_access import resolve_path
from tasks.tracking import track
from tasks.video_steps import VIDEO_STEPS


@flow(name="match-videos", flow_run_name="match {queries} with {references}")
def match_videos(
    queries: Media,
    references: References,
    out: Out,
    preset: VideoPreset = "cpu",
    overrides: VideoOverrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> dict[str, Any]:
    """Write tables and a report of the copied segments into the folder `out`, and return the content of `run.json`.

    Steps: check, ingest (queries, references), describe (shards), finish (queries, references),
    index-segments (references), detect-editing (shards of queries, with a detector),
    search (shards of queries), align (shards of queries), verify (shards of queries), find-ends (shards of queries),
    compare-signatures (shards of queries), merge, report, summarize.
    There is no report if `report.max_matches` is 0. The run is tracked in MLflow if MLFLOW_TRACKING_URI is set.

    Raises what `copytrace.match_videos` raises, and `SettingsError`.
    """
    settings = flow_settings(VideoSettings, preset, overrides)
    with run_on(runner, VIDEO_STEPS) as steps:
        run = videos.match_videos(queries, references, out, settings, runner=steps)
    show_outputs(resolve_path(out), "match-videos")
    track(resolve_path(out), "match-videos", run)
    return run


def main(
    queries: Annotated[str, options.Videos],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-videos.")],
    out: Annotated[Path, typer.Option(help="Folder for segments.csv, report.html and the rest.")],
    overrides: options.VideoOverrides = None,
    preset: options.VideoPreset = "cpu",
    config: options.Config = None,
    runner: options.Runner = "threads",
) -> None:
    """Find which seconds of which REFERENCES the QUERIES show, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(VideoSettings, preset, config, overrides)
        run = match_videos(queries, references, str(out), **chosen, runner=parse_runner(runner))
        count = run["counts"]["copied_segments"]
        typer.echo(f"{count:,} copied segments; see {out / 'segments.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(options.choose_files(main))
