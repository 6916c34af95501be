"""Ingest: check the settings, list the media asked for, and plan which shards of them are still to be described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect.logging import get_run_logger

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import image_stages, video_stages
from copytrace.index.media_index import Role
from tasks.step_task import step_task


@step_task("check")
def check(settings: ImageSettings, indexes: Sequence[Path]) -> None:
    """Refuse now what could only stop the run later; see `image_stages.check`."""
    image_stages.check(settings, indexes)


@step_task("ingest {role}")
def ingest(source: str, root: Path, role: Role, settings: ImageSettings, *, replace: bool) -> list[int]:
    """Plan the index at `root` and return the numbers of the shards to describe; see `image_stages.plan`."""
    shards = image_stages.plan(source, root, role, settings, replace=replace)
    get_run_logger().info("%s: %d shards to describe into %s", role, len(shards), root)
    return shards


@step_task("check")
def check_videos(settings: VideoSettings, indexes: Sequence[Path]) -> None:
    """Refuse now what could only stop the run later; see `video_stages.check`."""
    video_stages.check(settings, indexes)


@step_task("ingest {role}")
def ingest_videos(source: str, root: Path, role: Role, settings: VideoSettings, *, replace: bool) -> list[int]:
    """Plan the index at `root` and return the numbers of the shards to describe; see `video_stages.plan`."""
    shards = video_stages.plan(source, root, role, settings, replace=replace)
    get_run_logger().info("%s: %d shards to describe into %s", role, len(shards), root)
    return shards
