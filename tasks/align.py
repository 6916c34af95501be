"""Align: the copied segments of each candidate pair, shard by shard of queries."""

from __future__ import annotations

from pathlib import Path

from configs.videos import VideoSettings
from copytrace import video_stages as stages
from copytrace.video_stages import VideoMatchPaths
from tasks.limits import of_aligner
from tasks.progress import ArtifactProgress
from tasks.step_task import stage_task


@stage_task("align {shard:05}", of_aligner)
def align(shard: int, queries: Path, references: Path, out: Path, settings: VideoSettings) -> Path:
    """Write the segments of a shard of queries and return them; see `video_stages.align_shard`."""
    progress = ArtifactProgress(f"{shard:05}")
    return stages.align_shard(shard, queries, references, VideoMatchPaths(out), settings, progress)
