"""Report: the HTML pages, `run.json`, and what Prefect's own pages show of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv
from prefect.artifacts import create_link_artifact, create_table_artifact

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import image_stages, video_stages
from copytrace.image_stages import MatchPaths
from copytrace.video_stages import VideoMatchPaths
from tasks.limits import cpu_slots
from tasks.outputs import uri_of
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task

TOP_ROWS = 50
MATCH_COLUMNS = ("query_id", "reference_id", "score", "branches", "inliers", "mirrored")
SEGMENT_COLUMNS = ("query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end", "score")


@step_task("report", cpu_slots)
def report(queries: Path, references: Path, out: Path, settings: ImageSettings) -> Path:
    """Write `report.html`, link to it from the run, and return it; see `image_stages.report`."""
    page = image_stages.report(queries, references, MatchPaths(out), settings, ArtifactProgress())
    _link(page, "match-images-report", "Matches side by side")
    return page


@step_task("report", cpu_slots)
def report_videos(queries: Path, references: Path, out: Path, settings: VideoSettings) -> Path:
    """Write `report.html`, link to it from the run, and return it; see `video_stages.report`."""
    page = video_stages.report(queries, references, VideoMatchPaths(out), settings, ArtifactProgress())
    _link(page, "match-videos-report", "Copied segments, frame by frame")
    return page


@step_task("summarise")
def summarise(queries: Path, references: Path, out: Path, settings: ImageSettings) -> dict[str, Any]:
    """Write `run.json`, show its figures and the best matches as tables, and return it; see `summarise_run`."""
    paths = MatchPaths(out)
    run = image_stages.summarise_run(queries, references, paths, settings)
    _show("match-images", run, paths.matches.with_suffix(".csv"), MATCH_COLUMNS)
    return run


@step_task("summarise")
def summarise_videos(queries: Path, references: Path, out: Path, settings: VideoSettings) -> dict[str, Any]:
    """Write `run.json`, show its figures and the best segments as tables, and return it; see `summarise_run`."""
    paths = VideoMatchPaths(out)
    run = video_stages.summarise_run(queries, references, paths, settings)
    _show("match-videos", run, paths.segments.with_suffix(".csv"), SEGMENT_COLUMNS)
    return run


def top_rows(csv: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the first rows of a table that is sorted by score, with the columns worth a glance."""
    options = pyarrow.csv.ConvertOptions(include_columns=list(columns))
    with csv.open("rb") as file:
        rows: list[dict[str, Any]] = pyarrow.csv.read_csv(file, convert_options=options).slice(0, TOP_ROWS).to_pylist()
    return rows


def _link(page: Path, key: str, description: str) -> None:
    create_link_artifact(uri_of(page), "report.html", key=key, description=description)


def _show(flow: str, run: dict[str, Any], csv: Path, columns: Sequence[str]) -> None:
    counts = [{"what": name.replace("_", " "), "count": count} for name, count in run["counts"].items()]
    costs = [{"what": name, "count": cost["count"], "seconds": cost["seconds"]} for name, cost in run["stages"].items()]
    create_table_artifact(counts + costs, key=f"{flow}-summary", description=f"Counts and seconds of {csv.parent}")
    create_table_artifact(
        top_rows(csv, columns), key=f"{flow}-top-matches", description=f"The best {TOP_ROWS} at most; all are in {csv}"
    )
