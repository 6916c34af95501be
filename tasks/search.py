"""Search: which references each query video is compared with in full, shard by shard of queries."""

from __future__ import annotations

from pathlib import Path

from configs.videos import VideoSettings
from copytrace import video_stages as stages
from copytrace.video_stages import VideoMatchPaths
from tasks.limits import cpu_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("search {shard:05}", cpu_slots)
def search(shard: int, queries: Path, references: Path, out: Path, settings: VideoSettings) -> Path:
    """Write the candidates of a shard of queries and return them; see `video_stages.search_shard`."""
    progress = ArtifactProgress(f"{shard:05}")
    return stages.search_shard(shard, queries, references, VideoMatchPaths(out), settings, progress)
