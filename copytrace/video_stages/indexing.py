"""Query and reference videos become indexes: plan, describe shard by shard, finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from configs.videos import FrameDescriptorSettings, VideoSettings
from copytrace.alignment.load import load_aligner
from copytrace.features.descriptors import Descriptor
from copytrace.features.ensemble import load_frame_descriptor
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
    receipt_path,
    write_plan,
)
from copytrace.index.video_index import VideoIndex, video_provenance
from copytrace.index.video_shards import describe_videos
from copytrace.media.failures import check_failure_rate, gather_failures
from copytrace.media.ingest import list_media
from copytrace.overlays.boxes import OverlayDetector, load_overlay_detector
from copytrace.progress import Progress
from copytrace.step import recorded
from copytrace.storage import resolve_path


def check(settings: VideoSettings, indexes: Sequence[Path]) -> None:
    """Raise, before any work, what could only stop the run later: an index of another model or of images.

    `indexes` are the sides that came as indexes; where both did, no model is needed.
    """
    load_aligner(settings.alignment, settings.descriptor)
    opened = [VideoIndex.open(root) for root in indexes]
    if len(opened) < 2:
        descriptor, _ = _models(settings.descriptor, settings.panes.detector)
        model = model_label(descriptor)
    else:
        model = opened[0].made_with["descriptor"]
    noise = [VideoIndex.open(resolve_path(settings.search.noise))] if settings.search.noise else []
    for index in [*opened, *noise]:
        check_model(index, model)


def plan(source: str, root: Path, role: Role, settings: VideoSettings, *, replace: bool) -> list[int]:
    """List the videos of `source`, plan the index at `root`, and return the numbers of the shards still to be made.

    Raises `InputError` when the source cannot be used, `ModelMismatchError` as `plan_index` does.
    """
    made_with = video_provenance(settings, role, *_models(settings.descriptor, settings.panes.detector))
    planned = plan_index(list_media(source), root, made_with, shard_size=settings.media.shard_size, replace=replace)
    write_plan(planned)
    return [shard.number for shard in planned.shards if not is_done(root, shard)]


def count_videos(root: Path, shards: Sequence[int]) -> int:
    """Return the number of videos in shards that are planned."""
    return sum(len(shard.items) for shard in read_plan(root).shards if shard.number in shards)


def describe_shard(root: Path, number: int, settings: VideoSettings, progress: Progress) -> Path:
    """Write the descriptors of a shard's frames and panes."""
    shard, made_with = read_planned_shard(root, number)
    receipt = receipt_path(root, number)
    if is_done(root, shard):
        return receipt
    descriptor, detector = _models(settings.descriptor, settings.panes.detector)
    role: Role = made_with["role"]
    now = video_provenance(settings, role, descriptor, detector)
    check_unchanged(root, "descriptor", made_with["descriptor"], now["descriptor"])
    check_unchanged(root, "finder of panes", made_with.get("panes"), now.get("panes"))
    name = f"describe {role}"
    with (
        recorded(receipt, name, len(shard.items)) as entry,
        progress.stage(name, len(shard.items), "videos") as stage,
    ):
        done = describe_videos(
            shard.items, root, number, descriptor, detector, settings, role=role, stamp=shard.stamp, stage=stage
        )
        entry["failures"] = [asdict(failure) for failure in done.failures]
        entry["damaged"] = [asdict(failure) for failure in done.damaged]
    return receipt


def finish(root: Path, settings: VideoSettings, *, failures: Path, indexes: Sequence[Path]) -> Path:
    """Take stock of an index: write its manifest, and list at `failures` what of `indexes` could not be read.

    Raises `TooManyFailuresError`, the list being written, above `media.max_failure_rate`.
    """
    planned = read_plan(root)
    failed = finish_index(planned)
    gather_failures([index / "failures.csv" for index in indexes], failures)
    check_failure_rate(len(failed), planned.total, settings.media.max_failure_rate, failures)
    return root


@lru_cache(maxsize=4)
def _models(descriptor: FrameDescriptorSettings, detector: str) -> tuple[Descriptor, OverlayDetector | None]:
    """Load the models once per process: shards come one after another."""
    loaded = load_frame_descriptor(descriptor)
    return loaded, load_overlay_detector(detector, backend=descriptor.backend, device=descriptor.device)
