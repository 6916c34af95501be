"""Match videos: which seconds of which references do the queries show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from configs.videos import VideoSettings
from copytrace.cli import options
from copytrace.media.failures import write_failures
from copytrace.video_stages import VideoMatchPaths, shards_of
from flows.parameters import Media, Out, References, VideoOverrides, VideoPreset, flow_settings, parameters_from_cli
from flows.terminal import RunnerOption, parse_runner, terminal_session
from tasks.align import align
from tasks.describe import describe_videos, finish_videos
from tasks.ingest import check_videos, ingest_videos
from tasks.merge import merge_segments
from tasks.outputs import show_outputs
from tasks.report import report_videos, summarise_videos
from tasks.runners import shards_on
from tasks.search import search
from tasks.storage_access import require_writable
from tasks.tracking import track


@flow(name="match-videos", flow_run_name="match {queries} with {references}")
def match_videos(
    queries: Media,
    references: References,
    out: Out,
    preset: VideoPreset = "cpu",
    overrides: VideoOverrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> dict[str, Any]:
    """Write tables and a report of the copied segments into the folder `out`, and return what stands in `run.json`.

    Raises what `copytrace.videos.match_videos` raises, and `SettingsError`.
    """
    settings, paths = flow_settings(VideoSettings, preset, overrides), VideoMatchPaths(require_writable(out))
    sides = paths.sides(queries, references)
    query_index, reference_index = (root for _, root, _, _ in sides)
    check_videos(settings, [root for _, root, _, to_make in sides if not to_make])
    built = [root for _, root, _, to_make in sides if to_make]
    if not built:
        write_failures(paths.failures, [])  # both came as indexes: no file is read
    with shards_on(runner) as shards:
        todo = [
            (root, ingest_videos(source, root, role, settings, replace=True))
            for source, root, role, to_make in sides
            if to_make
        ]
        for root, planned in todo:
            shards.each(planned, describe_videos, root=root, settings=settings)
            finish_videos(root, settings, failures=paths.failures, indexes=built)
        indexes = {"queries": query_index, "references": reference_index}
        shards.each(shards_of(query_index), search, align, **indexes, out=paths.out, settings=settings)
    merge_segments(query_index, reference_index, paths.out)
    if settings.report.max_matches:
        report_videos(query_index, reference_index, paths.out, settings)
    run = summarise_videos(query_index, reference_index, paths.out, settings)
    show_outputs(paths.out, "match-videos")
    track(paths.out, "match-videos", run)
    return run


def main(
    queries: Annotated[str, options.Videos],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-videos.")],
    out: Annotated[Path, typer.Option(help="Folder for segments.csv, report.html and the rest.")],
    overrides: options.Overrides = None,
    preset: options.VideoPreset = "cpu",
    config: options.Config = None,
    runner: RunnerOption = "threads",
) -> None:
    """Find which seconds of which REFERENCES the QUERIES show, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(VideoSettings, preset, config, overrides)
        run = match_videos(queries, references, str(out), **chosen, runner=parse_runner(runner))
        count = run["counts"]["copied_segments"]
        typer.echo(f"{count:,} copied segments; see {out / 'segments.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(main)
