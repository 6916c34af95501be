"""Describe: descriptors of images and of frames, and points, shard by shard; then take stock of the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import image_stages, video_stages
from tasks.limits import descriptor_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("describe {root.name} {shard:05}", descriptor_slots)
def describe(root: Path, shard: int, settings: ImageSettings) -> Path:
    """Write descriptors and points of a shard and return its receipt; see `image_stages.describe_shard`."""
    return image_stages.describe_shard(root, shard, settings, ArtifactProgress(f"{shard:05}"))


@step_task("finish {root.name}")
def finish(root: Path, settings: ImageSettings, *, failures: Path, indexes: Sequence[Path]) -> Path:
    """Write the manifest of an index and the list of failures, and return the index; see `image_stages.finish`."""
    return image_stages.finish(root, settings, failures=failures, indexes=indexes)


@step_task("describe {root.name} {shard:05}", descriptor_slots)
def describe_videos(root: Path, shard: int, settings: VideoSettings) -> Path:
    """Write descriptors of a shard's frames and panes, and return its receipt; see `video_stages.describe_shard`."""
    return video_stages.describe_shard(root, shard, settings, ArtifactProgress(f"{shard:05}"))


@step_task("finish {root.name}")
def finish_videos(root: Path, settings: VideoSettings, *, failures: Path, indexes: Sequence[Path]) -> Path:
    """Write the manifest of an index and the list of failures, and return the index; see `video_stages.finish`."""
    return video_stages.finish(root, settings, failures=failures, indexes=indexes)
