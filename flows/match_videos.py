"""Match videos: which seconds of which references do the queries show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.videos import VideoSettings
from copytrace.cli import options
from copytrace.media.failures import write_failures
from copytrace.video_stages import VideoMatchPaths, shards_of
from flows.index_images import ONE_SHARD_AT_A_TIME
from flows.index_videos import describe_index
from flows.parameters import Media, Out, References, VideoOverrides, VideoPreset, chosen_by, settings_of
from flows.terminal import at_the_terminal
from tasks.align import align
from tasks.ingest import check_videos, ingest_videos
from tasks.merge import merge_segments
from tasks.report import report_videos, summarise_videos
from tasks.search import search
from tasks.tracking import track


@flow(
    name="match-videos",
    flow_run_name="match {queries} with {references}",
    task_runner=ONE_SHARD_AT_A_TIME,
)
def match_videos(
    queries: Media,
    references: References,
    out: Out,
    preset: VideoPreset = "cpu",
    overrides: VideoOverrides = {},  # noqa: B006
) -> dict[str, Any]:
    """Write tables and a report of the copied segments into the folder `out`, and return what stands in `run.json`.

    Raises what `copytrace.video_matching.match_videos` raises, and `SettingsError`.
    """
    settings, paths = settings_of(VideoSettings, preset, overrides), VideoMatchPaths(Path(out))
    sides = paths.sides(queries, references)
    query_index, reference_index = (root for _, root, _, _ in sides)
    check_videos(settings, [root for _, root, _, to_make in sides if not to_make])
    todo = [
        (root, ingest_videos(source, root, role, settings, replace=True))
        for source, root, role, to_make in sides
        if to_make
    ]
    if not todo:
        write_failures(paths.failures, [])  # both came as indexes: no file is read
    for root, missing in todo:
        describe_index(root, missing, settings, failures=paths.failures, indexes=[made for made, _ in todo])
    shards = shards_of(query_index)
    for step in (search, align):
        for done in [step.submit(shard, query_index, reference_index, paths.out, settings) for shard in shards]:
            done.result()
    merge_segments(query_index, reference_index, paths.out)
    if settings.report.max_matches:
        report_videos(query_index, reference_index, paths.out, settings)
    run = summarise_videos(query_index, reference_index, paths.out, settings)
    track(paths.out, "match-videos", run)
    return run


def main(
    queries: Annotated[str, options.Videos],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-videos.")],
    out: Annotated[Path, typer.Option(help="Folder for segments.csv, report.html and the rest.")],
    overrides: options.Overrides = None,
    preset: options.VideoPreset = "cpu",
    config: options.Config = None,
) -> None:
    """Find which seconds of which REFERENCES the QUERIES show, as a Prefect flow."""
    with at_the_terminal():
        run = match_videos(queries, references, str(out), **chosen_by(VideoSettings, preset, config, overrides))
        count = run["counts"]["copied_segments"]
        typer.echo(f"{count:,} copied segments; see {out / 'segments.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(main)
