"""Queries and references become indexes: plan, preprocess and describe shard by shard, finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from configs.images import DescriptorSettings, ImageSettings
from copytrace.errors import ConfigError
from copytrace.features.descriptors import Descriptor, load_descriptor
from copytrace.index.image_index import ImageIndex, image_provenance
from copytrace.index.image_shards import ShardPaths, describe, find_overlays
from copytrace.index.media_index import (
    Role,
    check_model,
    check_unchanged,
    finish_index,
    is_done,
    model_label,
    plan_index,
    read_plan,
    read_planned_shard,
    write_plan,
)
from copytrace.matching.calibration import load_calibration
from copytrace.media.failures import check_failure_rate, gather_failures
from copytrace.media.ingest import list_media
from copytrace.overlays.boxes import OverlayDetector
from copytrace.overlays.load import load_overlay_detector
from copytrace.progress import Progress
from copytrace.step import recorded
from copytrace.storage import read_stamp, resolve_path


def check(settings: ImageSettings, indexes: Sequence[Path]) -> None:
    """Raise, before any work, what could only stop the run later: a bad calibration, an index of another model."""
    if (settings.merge.rule == "sum") != (settings.verification.rule == "imgfp"):
        raise ConfigError(
            "merge.rule=sum adds up imgFp's counts and needs verification.rule=imgfp, and that needs the sum; "
            "give both or neither, or --preset imgfp"
        )
    if settings.merge.rule == "calibrated":
        load_calibration(settings.merge.calibration)
    descriptor, _ = _models(settings.descriptor, settings.overlay.detector)
    for root in [*indexes, *([resolve_path(settings.global_.noise)] if settings.global_.noise else [])]:
        check_model(ImageIndex.open(root), model_label(descriptor))


def plan(source: str, root: Path, role: Role, settings: ImageSettings, *, replace: bool) -> list[int]:
    """List the images of `source`, plan the index at `root`, and return the numbers of the shards still to be made.

    Raises `InputError` when the source cannot be used, `ModelMismatchError` as `plan_index` does.
    """
    descriptor, detector = _models(settings.descriptor, settings.overlay.detector)
    made_with = image_provenance(settings, role, descriptor, detector)
    planned = plan_index(list_media(source), root, made_with, shard_size=settings.media.shard_size, replace=replace)
    write_plan(planned)
    return [shard.number for shard in planned.shards if not is_done(root, shard)]


def role_of(root: Path) -> Role:
    """Return what the index planned at `root` is for."""
    return read_plan(root).role


def count_images(root: Path, shards: Sequence[int]) -> int:
    """Return the number of images in shards that are planned."""
    return sum(len(shard.items) for shard in read_plan(root).shards if shard.number in shards)


def preprocess_shard(root: Path, number: int, settings: ImageSettings, progress: Progress) -> Path:
    """Find the pictures pasted into the queries of a shard; references are taken as they are."""
    shard, made_with = read_planned_shard(root, number)
    path = ShardPaths.of(root, number).overlays
    if made_with["role"] == "references" or read_stamp(path) == shard.stamp:
        return path
    _, detector = _models(settings.descriptor, settings.overlay.detector)
    check_unchanged(root, "overlay detector", made_with["overlays"]["digest"], detector.digest if detector else "none")
    with (
        recorded(path.with_suffix(".json"), "preprocess queries", len(shard.items)),
        progress.stage("preprocess queries", len(shard.items), "images") as stage,
    ):
        return find_overlays(shard.items, path, detector, settings, stage=stage, stamp=shard.stamp)


def describe_shard(root: Path, number: int, settings: ImageSettings, progress: Progress) -> Path:
    """Write descriptors and points of a shard."""
    shard, made_with = read_planned_shard(root, number)
    paths = ShardPaths.of(root, number)
    if is_done(root, shard):
        return paths.receipt
    descriptor, _ = _models(settings.descriptor, settings.overlay.detector)
    check_unchanged(root, "descriptor", made_with["descriptor"], model_label(descriptor))
    role = made_with["role"]
    name = f"describe {role}"
    with (
        recorded(paths.receipt, name, len(shard.items)) as receipt,
        progress.stage(name, len(shard.items), "images") as stage,
    ):
        failures = describe(shard.items, paths, descriptor, settings, role=role, stage=stage, stamp=shard.stamp)
        receipt["failures"] = [asdict(failure) for failure in failures]
    return paths.receipt


def finish(root: Path, settings: ImageSettings, *, failures: Path, indexes: Sequence[Path]) -> Path:
    """Take stock of an index: write its manifest, and list at `failures` what none of `indexes` could read.

    Raises `TooManyFailuresError`, the list being written, above `media.max_failure_rate`.
    """
    planned = read_plan(root)
    failed = finish_index(planned)
    gather_failures([index / "failures.csv" for index in indexes], failures)
    check_failure_rate(len(failed), planned.total, settings.media.max_failure_rate, failures)
    return root


@lru_cache(maxsize=4)
def _models(descriptor: DescriptorSettings, detector: str) -> tuple[Descriptor, OverlayDetector | None]:
    """Load the models once per process: shards come one after another."""
    loaded = load_descriptor(
        descriptor.model, backend=descriptor.backend, device=descriptor.device, input_size=descriptor.input_size
    )
    return loaded, load_overlay_detector(detector, backend=descriptor.backend, device=descriptor.device)
