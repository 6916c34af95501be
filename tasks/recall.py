"""Recall: candidate references for every query, one branch at a time."""

from __future__ import annotations

from pathlib import Path

from configs.images import ImageSettings
from copytrace import image_stages as stages
from copytrace.search.image_candidates import Branch
from tasks.limits import cpu_slots
from tasks.progress import ArtifactProgress
from tasks.step_task import step_task


@step_task("recall {branch}", cpu_slots)
def recall(branch: Branch, queries: Path, references: Path, path: Path, settings: ImageSettings) -> Path:
    """Write the candidates of a branch to `path` and return it; see `image_stages.recall`."""
    return stages.recall(branch, queries, references, path, settings, ArtifactProgress())
