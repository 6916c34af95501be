"""What is computed of one shard of images: pasted pictures, descriptors and points, from one decoding each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from configs.images import ImageSettings
from copytrace.errors import MediaError
from copytrace.features.descriptors import Descriptor, resize_for_descriptor
from copytrace.features.points import Bytes, find_points
from copytrace.index.descriptor_files import open_descriptor_writer
from copytrace.index.media_index import Role, descriptors_path, receipt_path
from copytrace.index.point_files import View, write_points
from copytrace.media.decode import DecodedImage, decode_image
from copytrace.media.failures import Failure
from copytrace.media.ingest import MediaItem
from copytrace.media.prefetch import prefetch
from copytrace.overlays.boxes import Box, OverlayDetector, choose_crops
from copytrace.panes.names import WHOLE
from copytrace.progress import Stage
from copytrace.runtime.devices import usable_cores
from copytrace.storage import read_table, write_table

T = TypeVar("T")

WORKING_SIDE = 1024  # larger images are decoded to this short side: no stage looks closer
BOXES_KEPT = 16
SMALLEST_CROP = 8  # pixels

OVERLAY_SCHEMA = pa.schema([("id", pa.string()), *((n, pa.float32()) for n in ("x0", "y0", "x1", "y1", "confidence"))])


@dataclass(frozen=True, slots=True)
class DescribedImage:
    """The views of one image, ready for the network and for the local branches."""

    item: MediaItem
    panes: list[str]
    pictures: list[Bytes]
    views: list[View]


def find_overlays(
    items: Sequence[MediaItem],
    path: Path,
    detector: OverlayDetector | None,
    settings: ImageSettings,
    *,
    stage: Stage,
    stamp: str,
) -> Path:
    """Write the boxes of pictures pasted into each image, best first; unreadable images are left to `describe`."""
    boxes: list[tuple[str, Box]] = []
    if detector is not None:
        for item, found in _ahead(items, lambda item: detector.detect(_decode(item, settings).pixels), settings):
            stage.advance()
            if not isinstance(found, MediaError):
                boxes += [(item.id, box) for box in found[:BOXES_KEPT]]
    rows = [(image, box.x0, box.y0, box.x1, box.y1, box.confidence) for image, box in boxes]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(OVERLAY_SCHEMA)
    return write_table(path, pa.table(columns, schema=OVERLAY_SCHEMA), stamp=stamp)


def read_overlays(path: Path) -> dict[str, list[Box]]:
    """Return the boxes of each image that has some, best first."""
    boxes: dict[str, list[Box]] = {}
    for row in read_table(path, schema=OVERLAY_SCHEMA).to_pylist():
        boxes.setdefault(row.pop("id"), []).append(Box(**row))
    return boxes


def describe(
    items: Sequence[MediaItem],
    paths: ShardPaths,
    descriptor: Descriptor,
    settings: ImageSettings,
    *,
    role: Role,
    stamp: str,
    stage: Stage,
) -> list[Failure]:
    """Write descriptors, points and views of a shard, and return the images that could not be read.

    Threads decode and find points while the network describes the batch before. The descriptors are
    written last: a shard that has them is whole.
    """
    overlays = read_overlays(paths.overlays) if paths.overlays.exists() else {}
    failures: list[Failure] = []
    views: list[View] = []
    ids: list[str] = []
    panes: list[str] = []
    vectors: list[np.ndarray] = []
    pending: list[Bytes] = []

    def load(item: MediaItem) -> DescribedImage:
        return _views_of(item, overlays.get(item.id, []), descriptor.input_size, settings, role)

    for item, image in _ahead(items, load, settings):
        stage.advance()
        if isinstance(image, MediaError):
            failures.append(Failure(item.id, item.path, "decode", str(image)))
            continue
        views += image.views
        ids += [item.id] * len(image.panes)
        panes += image.panes
        pending += image.pictures
        while len(pending) >= settings.descriptor.batch_size:
            batch, pending = pending[: settings.descriptor.batch_size], pending[settings.descriptor.batch_size :]
            vectors.append(descriptor.describe(np.stack(batch)))
    if pending:
        vectors.append(descriptor.describe(np.stack(pending)))
    write_points(paths.points, paths.views, views, stamp=stamp)
    with open_descriptor_writer(paths.descriptors, descriptor.dimensions, stamp=stamp) as writer:
        writer.add(ids, panes, np.concatenate([np.zeros((0, descriptor.dimensions), np.float32), *vectors]))
    return failures


@dataclass(frozen=True, slots=True)
class ShardPaths:
    """Where the files of one shard lie."""

    overlays: Path
    points: Path
    views: Path
    descriptors: Path
    receipt: Path

    @classmethod
    def of(cls, root: Path, number: int) -> ShardPaths:
        """Return the paths of shard `number` under the index folder `root`."""
        overlays, points, views = (root / name / f"{number:05}.parquet" for name in ("overlays", "points", "views"))
        return cls(overlays, points, views, descriptors_path(root, number), receipt_path(root, number))


def _views_of(
    item: MediaItem, boxes: Sequence[Box], input_size: int, settings: ImageSettings, role: Role
) -> DescribedImage:
    image = _decode(item, settings)
    local = settings.local
    if role == "references":
        whole = View(item.id, WHOLE, find_points(image.pixels, local.reference_points))
        return DescribedImage(item, [WHOLE], [resize_for_descriptor(image.pixels, input_size)], [whole])
    views = [View(item.id, WHOLE, find_points(image.pixels, local.query_points))]
    for stretch in local.stretches:
        points = find_points(image.pixels, local.stretched_points, stretch=stretch)
        views.append(View(item.id, f"stretched{stretch:g}", points))
    panes, pictures = [WHOLE], [resize_for_descriptor(image.pixels, input_size)]
    for number, (box, crop) in enumerate(_crops(image, boxes, settings)):
        name = f"crop{number}"
        if box.confidence > settings.overlay.local_confidence:
            corners = (box.x0, box.y0, box.x1, box.y1)
            views.append(View(item.id, name, find_points(crop, local.crop_points, box=corners)))
        if box.confidence > settings.overlay.global_confidence:
            panes.append(name)
            pictures.append(resize_for_descriptor(crop, input_size))
    return DescribedImage(item, panes, pictures, views)


def _crops(image: DecodedImage, boxes: Sequence[Box], settings: ImageSettings) -> Iterator[tuple[Box, Bytes]]:
    rules = settings.overlay
    height, width = image.pixels.shape[:2]
    for box in choose_crops(
        boxes,
        min_confidence=min(rules.global_confidence, rules.local_confidence),
        max_area=rules.max_area,
        max_aspect=rules.max_aspect,
        limit=rules.max_crops,
    ):
        x0, y0, x1, y1 = box.to_pixels(width, height)
        if min(x1 - x0, y1 - y0) >= SMALLEST_CROP:
            yield box, np.ascontiguousarray(image.pixels[y0:y1, x0:x1])


def _decode(item: MediaItem, settings: ImageSettings) -> DecodedImage:
    return decode_image(item.path, short_side=WORKING_SIDE, max_pixels=settings.media.max_pixels)


def _ahead(
    items: Sequence[MediaItem], load: Callable[[MediaItem], T], settings: ImageSettings
) -> Iterator[tuple[MediaItem, T | MediaError]]:
    threads = settings.media.threads or usable_cores()
    return prefetch(items, load, threads=threads, ahead=threads + settings.descriptor.batch_size)
