"""What a segment of an index of images holds.

INDEX/segments/NAME.parquet      its images: id, shard, width, height, and the key of their thumbnail
INDEX/segments/NAME.npy          their descriptors, float16 [R, D]
INDEX/segments/NAME.thumbnails   their thumbnails, uint8 [R, 864]; segments of an older version have none
INDEX/segments/NAME.points       their points in inverted lists, as codes of 16 bytes
INDEX/segments/NAME.lists        where each list begins, and how long it is, with a CRC-32 of each, int64 [L, 4]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Numbers
from copytrace.checked_files import checked_copy, checks_of, damage_errors, read_checked
from copytrace.checksums import MappedChecks
from copytrace.features.points import Bytes
from copytrace.features.thumbnails import BYTES, KEY_BYTES, thumbnail_keys
from copytrace.index.codebook import codebook_digest, quantizer_of
from copytrace.index.image_index import ImageIndex
from copytrace.index.list_checks import list_checks
from copytrace.index.point_lists import CodedPoints, PointLists, read_lists
from copytrace.index.point_places import MOST_IMAGES
from copytrace.index.segments import SegmentContent, current_media, id_column, open_current, record_of, write_segments
from copytrace.object_store import as_stored_path
from copytrace.step import StepRun
from copytrace.storage import atomic_path
from copytrace.tables import table_of_rows, write_table

LARGEST_SEGMENT = 1 << 29  # points; the lists of one have 13 GB
# An image with few points counts as this many, so that no segment has more images than its places can number.
LEAST_OF_IMAGE = LARGEST_SEGMENT // MOST_IMAGES
FINE_FROM = 1 << 24  # points from which on an index has fine lists
_NO_THUMBNAIL = np.zeros(BYTES, np.uint8)

IMAGE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("key", pa.binary(KEY_BYTES)),  # null: of this image there is no thumbnail
    ]
)


@dataclass(frozen=True, slots=True)
class SegmentThumbnails:
    """Thumbnails of R images, uint8 [R, 864]; those of `rows` int64 [T] are known, and have `keys` uint8 [T, 18].

    Their file is mapped into memory, and a part of it is checked by `checks` when it is first read.
    """

    pixels: Bytes
    rows: Numbers
    keys: Bytes
    checks: MappedChecks | None = None

    def read(self, rows: Numbers) -> Bytes:
        """Return the thumbnails of N rows, uint8 [N, 864]. Raises `DamagedFileError`."""
        if self.checks:
            start = self.checks.size - self.pixels.nbytes + rows * BYTES
            self.checks.check_parts(start, start + BYTES)
        return self.pixels[rows]


@dataclass(frozen=True, slots=True)
class Segment:
    """R images: their ids, their descriptors float16 [R, D], lists of their points, and thumbnails, if any has one.

    `points.current` bool [R] tells which are still in the index.
    """

    ids: pa.LargeStringArray
    vectors: NDArray[np.float16]
    points: PointLists
    thumbnails: SegmentThumbnails | None = None


def index_segments(root: Path, *, merge_all: bool = False) -> Path:
    """Bring the segments of the index of images at `root` up to date, and return their folder; see `write_segments`."""
    return write_segments(_ImageContent(ImageIndex.open(root)), merge_all=merge_all)


def open_segments(index: ImageIndex) -> Sequence[Segment]:
    """Open the segments of an index of images, once per process until it changes.

    Raises `InputError` if they do not hold all of its shards.
    """
    return open_current(_ImageContent(index))


class _ImageContent(SegmentContent[Segment]):
    index: ImageIndex
    unit: ClassVar[str] = "points"
    largest: ClassVar[int] = LARGEST_SEGMENT

    @property
    def made_by(self) -> str:
        return codebook_digest(self.index)

    def size(self, shard: int) -> int:
        return max(self.index.point_count(shard), LEAST_OF_IMAGE * len(self.index.ids_in(shard)))

    def form(self, total: float) -> str:
        return "fine" if total >= FINE_FROM else "coarse"

    def write(self, path: Path, shards: Sequence[int], form: str, work: StepRun) -> None:
        quantizer = quantizer_of(self.index)
        level = quantizer.fine if form == "fine" else quantizer.coarse
        points = CodedPoints(level, sum(map(self.index.point_count, shards)))
        rows: list[tuple[str, int, int, int, bytes | None]] = []
        vectors: list[NDArray[np.float16]] = []
        thumbnails: list[Bytes] = []
        for shard in shards:
            views = list(self.index.views(shard))
            points.add_views(quantizer.canonical_form, views, len(rows))
            small, keys = self._thumbnails(shard, [view.id for view in views])
            rows += [
                (view.id, shard, view.points.width, view.points.height, key)
                for view, key in zip(views, keys, strict=True)
            ]
            thumbnails.append(small)
            vectors.append(self._vectors(shard, [view.id for view in views]))
            work.advance(sum(len(view.points) for view in views))
        points.write(path.with_suffix(".points"))
        _save(path.with_suffix(".npy"), np.concatenate(vectors))
        if any(row[-1] for row in rows):
            _save(path.with_suffix(".thumbnails"), np.concatenate(thumbnails))
        write_table(path.with_suffix(".parquet"), table_of_rows(rows, IMAGE_SCHEMA))

    def _vectors(self, shard: int, ids: Sequence[str]) -> NDArray[np.float16]:
        described = self.index.descriptors(shard)
        rows = {image: row for row, image in enumerate(described.ids)}
        chosen = np.array([rows[image] for image in ids], int)
        vectors: NDArray[np.float16] = described.vectors[chosen].astype(np.float16)
        return vectors

    def _thumbnails(self, shard: int, ids: Sequence[str]) -> tuple[Bytes, list[bytes | None]]:
        """Return the thumbnails uint8 [N, 864] of images and their keys; zeros and None for those without one."""
        described = self.index.thumbnails(shard)
        small = np.array([described.get(image, _NO_THUMBNAIL) for image in ids], np.uint8).reshape(-1, BYTES)
        keys = thumbnail_keys(small)
        return small, [key.tobytes() if image in described else None for image, key in zip(ids, keys, strict=True)]

    def open(self, path: Path, shards: Sequence[int]) -> Segment:
        images = read_checked(path.with_suffix(".parquet"), record_of(path), schema=IMAGE_SCHEMA)
        sides = np.stack([images.column(side).to_numpy() for side in ("width", "height")], axis=1).astype(np.float32)
        ids = id_column(images)
        current = current_media(self.index, ids, images.column("shard").to_numpy(), shards)
        points, record = path.with_suffix(".points"), record_of(path)
        vectors = _map(path.with_suffix(".npy"), record)
        known = images.column("key").is_valid().to_numpy()
        thumbnails = None
        if known.any():
            keys = np.concatenate([_bytes_of(chunk) for chunk in images.column("key").drop_null().chunks])
            pixels, checks_of_pixels = _map_unchecked(path.with_suffix(".thumbnails"), record)
            rows = np.flatnonzero(known)
            thumbnails = SegmentThumbnails(pixels, rows, keys, checks_of_pixels)
        lists = read_lists(points, quantizer_of(self.index), record)
        checks = list_checks(points, record)
        return Segment(ids, vectors, PointLists(lists, sides, current, checks), thumbnails)


def _bytes_of(keys: pa.FixedSizeBinaryArray) -> Bytes:
    """Return keys without nulls as uint8 [N, 18]."""
    content = np.frombuffer(keys.buffers()[1] or b"", np.uint8)
    return content.reshape(-1, KEY_BYTES)[keys.offset : keys.offset + len(keys)]


def _save(path: Path, array: NDArray[np.generic]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _map(path: Path, record: Path) -> NDArray[Any]:
    with checked_copy(path, record) as file:
        mapped: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def _map_unchecked(path: Path, record: Path) -> tuple[NDArray[Any], MappedChecks | None]:
    """Map an array into memory, and return it with the checks of its file; an object of a store is checked at once."""
    checks = None if as_stored_path(path) else checks_of(path, record)
    if checks is None:
        return _map(path, record), None
    with damage_errors(path, None):
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped, MappedChecks(checks, path)
