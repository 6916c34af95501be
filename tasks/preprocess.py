"""Preprocess: find the pictures pasted into queries."""

from __future__ import annotations

from pathlib import Path

from configs.images import ImageSettings
from copytrace import image_stages as stages
from tasks.limits import cpu_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("preprocess {root.name} {shard:05}", cpu_slots)
def preprocess(root: Path, shard: int, settings: ImageSettings) -> Path:
    """Write the overlay boxes of a shard of queries and return their file; see `image_stages.preprocess_shard`."""
    return stages.preprocess_shard(root, shard, settings, ArtifactProgress(f"{shard:05}"))
