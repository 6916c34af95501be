"""What a segment of an index of images holds.

INDEX/segments/NAME.parquet   its images: id, shard, width and height
INDEX/segments/NAME.npy       their descriptors, float16 [R, D]
INDEX/segments/NAME.points    their points in inverted lists, as codes of 16 bytes
INDEX/segments/NAME.lists     where each list begins, and how long it is, with a CRC-32 of each, int64 [L, 4]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.checked_files import checked_copy, read_checked
from copytrace.index.codebook import codebook_digest, quantizer_of
from copytrace.index.image_index import ImageIndex
from copytrace.index.list_checks import list_checks
from copytrace.index.point_lists import CodedPoints, PointLists, read_lists
from copytrace.index.segments import SegmentContent, current_media, id_column, open_current, record_of, write_segments
from copytrace.step import StepRun
from copytrace.storage import atomic_path, table_of_rows, write_table

LARGEST_SEGMENT = 1 << 29  # points; the lists of one have 13 GB
FINE_FROM = 1 << 24  # points from which on an index has fine lists

IMAGE_SCHEMA = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("width", pa.int32()), ("height", pa.int32())])


@dataclass(frozen=True, slots=True)
class Segment:
    """R images: their ids, their descriptors float16 [R, D], and lists of their points.

    `points.current` bool [R] tells which are still in the index.
    """

    ids: pa.LargeStringArray
    vectors: NDArray[np.float16]
    points: PointLists


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
        return self.index.point_count(shard)

    def form(self, total: float) -> str:
        return "fine" if total >= FINE_FROM else "coarse"

    def write(self, path: Path, shards: Sequence[int], form: str, work: StepRun) -> None:
        quantizer = quantizer_of(self.index)
        level = quantizer.fine if form == "fine" else quantizer.coarse
        points = CodedPoints(level, sum(map(self.size, shards)))
        rows: list[tuple[str, int, int, int]] = []
        vectors: list[NDArray[np.float16]] = []
        for shard in shards:
            views = list(self.index.views(shard))
            points.add_views(quantizer.canonical_form, views, len(rows))
            rows += [(view.id, shard, view.points.width, view.points.height) for view in views]
            vectors.append(self._vectors(shard, [view.id for view in views]))
            work.advance(sum(len(view.points) for view in views))
        points.write(path.with_suffix(".points"))
        with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(vectors))
        write_table(path.with_suffix(".parquet"), table_of_rows(rows, IMAGE_SCHEMA))

    def _vectors(self, shard: int, ids: Sequence[str]) -> NDArray[np.float16]:
        described = self.index.descriptors(shard)
        rows = {image: row for row, image in enumerate(described.ids)}
        chosen = np.array([rows[image] for image in ids], int)
        vectors: NDArray[np.float16] = described.vectors[chosen].astype(np.float16)
        return vectors

    def open(self, path: Path, shards: Sequence[int]) -> Segment:
        images = read_checked(path.with_suffix(".parquet"), record_of(path), schema=IMAGE_SCHEMA)
        sides = np.stack([images.column(side).to_numpy() for side in ("width", "height")], axis=1).astype(np.float32)
        ids = id_column(images)
        current = current_media(self.index, ids, images.column("shard").to_numpy(), shards)
        with checked_copy(path.with_suffix(".npy"), record_of(path)) as file:
            vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        points, record = path.with_suffix(".points"), record_of(path)
        lists = read_lists(points, quantizer_of(self.index), record)
        return Segment(ids, vectors, PointLists(lists, sides, current, list_checks(points, record)))
