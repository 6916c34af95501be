"""Score: evidence for every candidate pair of a shard of queries."""

from __future__ import annotations

from pathlib import Path

from configs.images import ImageSettings
from copytrace import image_stages as stages
from copytrace.image_stages import MatchPaths
from tasks.limits import cpu_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("score {shard:05}", cpu_slots)
def score(shard: int, queries: Path, references: Path, out: Path, settings: ImageSettings) -> Path:
    """Write the evidence of a shard into the run's folder and return its file; see `image_stages.score_shard`."""
    return stages.score_shard(shard, queries, references, MatchPaths(out), settings, ArtifactProgress(f"{shard:05}"))
