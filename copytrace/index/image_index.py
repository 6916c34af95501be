"""An index of images: descriptors, points, views and thumbnails of each shard, and the steps that fill it.

The steps plan it and then, per shard, find pasted pictures and describe images.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from configs.images import ImageSettings
from configs.settings import DescriptorSettings
from copytrace.arrays import Floats
from copytrace.checked_files import count_checked_rows, read_checked
from copytrace.errors import MediaError
from copytrace.features.descriptor_sources import descriptor_state
from copytrace.features.descriptors import Descriptor, load_descriptor, model_label
from copytrace.features.points import Bytes
from copytrace.index.changes import note_content
from copytrace.index.codebook import SHIPPED, codebook_label, keep_codebook
from copytrace.index.given_up import GivenUpFiles
from copytrace.index.image_reading import ReadImage, decode_item, load_in_threads, read_image
from copytrace.index.media_index import (
    MediaIndex,
    MediaKind,
    Role,
    check_unchanged,
    descriptors_path,
    receipt_path,
)
from copytrace.index.odd_files import odd_file
from copytrace.index.plan_file import Shard, read_planned_shard
from copytrace.index.plan_source import plan_source
from copytrace.index.shard_files import (
    View,
    open_descriptor_writer,
    read_overlays,
    read_points,
    read_thumbnails,
    table_vectors,
    write_overlays,
    write_points,
    write_thumbnails,
)
from copytrace.media.failures import Failure
from copytrace.media.files import MediaItem
from copytrace.model_sources import model_state
from copytrace.overlays.box_files import BoxFile
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import OverlayDetector, load_overlay_detector
from copytrace.step import Step, StepRun

FORMAT = 1

BOXES_KEPT = 16  # of each query


@dataclass(frozen=True, slots=True)
class ShardPaths:
    """Files of one shard of images."""

    overlays: Path
    points: Path
    views: Path
    descriptors: Path
    thumbnails: Path
    receipt: Path

    @classmethod
    def of(cls, root: Path, number: int) -> ShardPaths:
        """Return the paths of shard `number` under the index folder `root`."""
        names = ("overlays", "points", "views", "thumbnails")
        overlays, points, views, thumbnails = (root / name / f"{number:05}.parquet" for name in names)
        return cls(overlays, points, views, descriptors_path(root, number), thumbnails, receipt_path(root, number))


@dataclass(frozen=True, slots=True)
class Descriptors:
    """N unit vectors, float32 [N, D], of panes (`whole`, `crop0`, …) of images."""

    ids: tuple[str, ...]
    panes: tuple[str, ...]
    vectors: Floats

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ImageIndex(MediaIndex):
    """A finished index of images; its methods raise `DamagedFileError` if a file of a shard is missing or damaged."""

    kind: ClassVar[MediaKind] = "images"

    def views(self, shard: int, wanted: Collection[str] | None = None) -> Iterator[View]:
        """Yield the views of the current images of a shard: of all, or of the `wanted` ones."""
        paths = ShardPaths.of(self.root, shard)
        for view in read_points(paths.points, paths.views, wanted, record=paths.receipt):
            if self.is_current(view.id, shard):
                yield view

    def descriptors(self, shard: int) -> Descriptors:
        """Return the descriptors of the current images of a shard."""
        paths = ShardPaths.of(self.root, shard)
        table = read_checked(paths.descriptors, paths.receipt, columns=["id", "pane", "vector"])
        ids, panes = table.column("id").to_pylist(), table.column("pane").to_pylist()
        vectors = table_vectors(table, paths.descriptors)
        rows = [row for row, image in enumerate(ids) if self.is_current(image, shard)]
        return Descriptors(tuple(ids[r] for r in rows), tuple(panes[r] for r in rows), vectors[np.array(rows, int)])

    def thumbnails(self, shard: int, wanted: Collection[str] | None = None) -> dict[str, Bytes]:
        """Return the thumbnails, uint8 [864], of the images of a shard that have one: of all, or of the `wanted` ones.

        Shards that an older version described have none until the index is brought up to date.
        """
        paths = ShardPaths.of(self.root, shard)
        found = read_thumbnails(paths.thumbnails, paths.receipt, wanted)
        return {image: small for image, small in found.items() if self.is_current(image, shard)}

    def point_count(self, shard: int) -> int:
        """Return the number of points in a shard, including those of images that are no longer current."""
        paths = ShardPaths.of(self.root, shard)
        return count_checked_rows(paths.points, paths.receipt)


def image_provenance(
    settings: ImageSettings, role: Role, descriptor: Descriptor, detector: OverlayDetector | None
) -> dict[str, Any]:
    """Return everything that decides the content of an index of this role, and nothing else."""
    names = ["reference_points"] if role == "references" else ["query_points", "crop_points", "stretched_points"]
    provenance: dict[str, Any] = {
        "format": FORMAT,
        "kind": "images",
        "role": role,
        "descriptor": model_label(descriptor),
        "typical_noise": descriptor.typical_noise,
        "points": {name: getattr(settings.local, name).deciding_values() for name in names}
        | {"opencv": cv2.__version__},
    }
    if role == "references" and settings.local.codebook != SHIPPED:
        provenance["codebook"] = codebook_label(settings.local.codebook)
    if role == "queries":
        provenance["stretches"] = list(settings.local.stretches)
        provenance["overlays"] = settings.overlay.model_dump() | {"digest": detector.digest if detector else "none"}
    as_read_back: dict[str, Any] = json.loads(json.dumps(provenance))
    return as_read_back


def load_image_models(descriptor: DescriptorSettings, detector: str) -> tuple[Descriptor, OverlayDetector | None]:
    """Load the descriptor and the overlay detector, once per process until their names mean other models."""
    states = (descriptor_state(descriptor.model), model_state(detector, "overlay"))
    return _load_image_models(descriptor, detector, states)


@lru_cache(maxsize=4)
def _load_image_models(
    descriptor: DescriptorSettings, detector: str, states: Hashable
) -> tuple[Descriptor, OverlayDetector | None]:
    loaded = load_descriptor(
        descriptor.model,
        backend=descriptor.backend,
        device=descriptor.device,
        input_size=descriptor.input_size,
        trust_torchscript=descriptor.trust_torchscript,
    )
    return loaded, load_overlay_detector(detector, backend=descriptor.backend, device=descriptor.device)


def plan_images(source: str, root: Path, role: Role, settings: ImageSettings, *, replace: bool) -> list[int]:
    """List the images of `source`, plan the index at `root`, and return the numbers of the shards to describe.

    Raises `InputError` when the source cannot be used, `ModelMismatchError` as `plan_index` does, and `ConfigError` if
    a model or a codebook cannot be read.
    """
    models = load_image_models(settings.descriptor, settings.overlay.detector)
    provenance = image_provenance(settings, role, *models)

    def is_described(shard: Shard) -> bool:
        return _description(root, role, shard).is_done()

    shards = plan_source(source, root, provenance, settings.media, is_described=is_described, replace=replace)
    if role == "references":
        keep_codebook(root, settings.local.codebook)
    return shards


def find_overlays(root: Path, shard: int, settings: ImageSettings) -> Path:
    """Write the boxes of pictures pasted into the queries of a planned shard, best first, and return the file.

    Unreadable images are skipped; `describe_images` reports them. Raises `ModelMismatchError` if the detector is not
    the one that the index was planned with.
    """
    planned, provenance = read_planned_shard(root, shard)
    path = ShardPaths.of(root, shard).overlays
    step = Step("preprocess queries", (path,), planned.fingerprint, path.with_suffix(".json"))
    if step.is_done():
        return path
    _, detector = load_image_models(settings.descriptor, settings.overlay.detector)
    given_up = GivenUpFiles(root, settings.media)
    check_unchanged(root, "overlay detector", provenance["overlays"]["digest"], detector.digest if detector else "none")
    found: list[tuple[str, Sequence[Box]]] = []
    with step.run(len(planned.items), "images") as work:
        if isinstance(detector, BoxFile):
            found = [(item.id, detector.boxes_of(item.id)) for item in planned.items]
            work.advance(len(found))
        elif detector is not None:
            detect = given_up.guard(lambda item: detector.detect(decode_item(item, settings).pixels))
            for item, boxes in load_in_threads(planned.items, detect, settings):
                work.advance()
                if not isinstance(boxes, MediaError):
                    found.append((item.id, boxes[:BOXES_KEPT]))
        write_overlays(path, found, with_branches=isinstance(detector, BoxFile))
    return path


def describe_images(root: Path, shard: int, settings: ImageSettings) -> Path:
    """Write what an index keeps of the images of a planned shard, and return its receipt, which lists odd files.

    Raises `ModelMismatchError` if the descriptor is not the one that the index was planned with.
    """
    planned, provenance = read_planned_shard(root, shard)
    paths, role = ShardPaths.of(root, shard), provenance["role"]
    step = _description(root, role, planned)
    if step.is_done():
        return paths.receipt
    descriptor, _ = load_image_models(settings.descriptor, settings.overlay.detector)
    check_unchanged(root, "descriptor", provenance["descriptor"], model_label(descriptor))
    with step.run(len(planned.items), "images") as work:
        given_up = GivenUpFiles(root, settings.media)
        failures, damaged = _describe(planned.items, paths, descriptor, settings, role, work, given_up)
        work.notes["failures"] = [asdict(failure) for failure in failures]
        work.notes["damaged"] = [asdict(failure) for failure in damaged]
    return paths.receipt


def _description(root: Path, role: Role, shard: Shard) -> Step:
    paths = ShardPaths.of(root, shard.number)
    outputs = (paths.points, paths.views, paths.descriptors, paths.thumbnails)
    return Step(f"describe {role}", outputs, shard.fingerprint, paths.receipt)


def _describe(
    items: Sequence[MediaItem],
    paths: ShardPaths,
    descriptor: Descriptor,
    settings: ImageSettings,
    role: Role,
    work: StepRun,
    given_up: GivenUpFiles,
) -> tuple[list[Failure], list[Failure]]:
    """Return the images that could not be read or were passed over, and those that were read only in part."""
    # Threads decode and find points while the network describes the previous batch.
    overlays = read_overlays(paths.overlays) if role == "queries" and paths.overlays.exists() else {}
    failures: list[Failure] = []
    damaged: list[Failure] = []
    views: list[View] = []
    ids: list[str] = []
    panes: list[str] = []
    vectors: list[np.ndarray] = []
    thumbnails: dict[str, Bytes] = {}
    pending: list[Bytes] = []
    batch_size = settings.descriptor.batch_size

    def load(item: MediaItem) -> ReadImage:
        return read_image(item, overlays.get(item.id, []), descriptor, settings, role)

    contents = work.notes.setdefault("contents", {})
    for item, image in load_in_threads(items, note_content(given_up.guard(load), contents), settings):
        work.advance()
        if isinstance(image, MediaError):
            failures.append(odd_file(item, image))
            continue
        if image.damage:
            damaged.append(odd_file(item, image.damage, is_used=True))
        views += image.views
        thumbnails[item.id] = image.thumbnail
        ids += [item.id] * len(image.panes)
        panes += image.panes
        pending += image.pictures
        while len(pending) >= batch_size:
            batch, pending = pending[:batch_size], pending[batch_size:]
            vectors.append(descriptor.describe(np.stack(batch)))
    if pending:
        vectors.append(descriptor.describe(np.stack(pending)))
    write_points(paths.points, paths.views, views)
    write_thumbnails(paths.thumbnails, list(thumbnails), list(thumbnails.values()))
    with open_descriptor_writer(paths.descriptors, descriptor.dimensions) as writer:
        writer.add(ids, panes, np.concatenate([np.zeros((0, descriptor.dimensions), np.float32), *vectors]))
    return failures, damaged
