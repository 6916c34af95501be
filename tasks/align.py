"""Align: the copied segments of each candidate pair, shard by shard of queries."""

from __future__ import annotations

from pathlib import Path

from configs.videos import VideoSettings
from copytrace import video_stages as stages
from copytrace.video_stages import VideoMatchPaths
from tasks.limits import aligner_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("align {shard:05}", aligner_slots)
def align(shard: int, queries: Path, references: Path, out: Path, settings: VideoSettings) -> Path:
    """Write the segments of a shard of queries and return them; see `video_stages.align_shard`."""
    progress = ArtifactProgress(f"{shard:05}")
    return stages.align_shard(shard, queries, references, VideoMatchPaths(out), settings, progress)
