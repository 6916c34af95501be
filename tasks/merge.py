"""Merge: one score per pair, and the tables of matches."""

from __future__ import annotations

from pathlib import Path

from configs.schema import ImageSettings
from copytrace import image_stages as stages
from copytrace.image_stages import MatchPaths
from tasks.policy import stage_task


@stage_task("merge")
def merge(queries: Path, references: Path, out: Path, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv` and return the former; see `image_stages.merge_scores`."""
    return stages.merge_scores(queries, references, MatchPaths(out), settings)
