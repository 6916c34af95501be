"""Ingest: check the settings, list the images asked for, and plan which shards of them are still to be described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect.logging import get_run_logger

from configs.schema import ImageSettings
from copytrace import image_stages as stages
from copytrace.features.media_index import Role
from tasks.policy import stage_task


@stage_task("check")
def check(settings: ImageSettings, indexes: Sequence[Path]) -> None:
    """Refuse now what could only stop the run later; see `image_stages.check`."""
    stages.check(settings, indexes)


@stage_task("ingest {role}")
def ingest(source: str, root: Path, role: Role, settings: ImageSettings, *, replace: bool) -> list[int]:
    """Plan the index at `root` and return the numbers of the shards to describe; see `image_stages.plan`."""
    shards = stages.plan(source, root, role, settings, replace=replace)
    get_run_logger().info("%s: %d shards to describe into %s", role, len(shards), root)
    return shards
