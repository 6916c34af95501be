"""Merge: one score per pair of images, and the tables of matches and of segments."""

from __future__ import annotations

from pathlib import Path

from configs.images import ImageSettings
from copytrace import image_stages, video_stages
from copytrace.image_stages import MatchPaths
from copytrace.video_stages import VideoMatchPaths
from tasks.step_task import step_task


@step_task("merge")
def merge(queries: Path, references: Path, out: Path, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv` and return the former; see `image_stages.merge_scores`."""
    return image_stages.merge_scores(queries, references, MatchPaths(out), settings)


@step_task("merge")
def merge_segments(queries: Path, references: Path, out: Path) -> Path:
    """Write `segments.parquet` and `segments.csv` and return the former; see `video_stages.merge_segments`."""
    return video_stages.merge_segments(queries, references, VideoMatchPaths(out))
