"""What a segment of an index of videos holds.

INDEX/segments/NAME.parquet   its videos: id, shard and number of frames
INDEX/segments/NAME.npy       the descriptors of all their frames, float16 [N, D], in the order of the videos
INDEX/segments/NAME.faiss     of many frames, inverted lists of them for the approximate search
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from copytrace.arrays import Numbers
from copytrace.checked_files import checked_copy, count_checked_rows, read_checked
from copytrace.index.frame_lists import SMALLEST_WITH_LISTS, build_frame_lists, read_frame_lists, write_frame_lists
from copytrace.index.media_index import descriptors_path, receipt_path
from copytrace.index.segments import SegmentContent, current_media, id_column, open_current, record_of, write_segments
from copytrace.index.video_index import VideoIndex
from copytrace.step import StepRun
from copytrace.storage import atomic_path, digest_of
from copytrace.tables import table_of_rows, write_table

FORMAT = 1
LARGEST_SEGMENT = 1 << 22  # frames; of 512 numbers each, their vectors have 4 GiB, and their lists as much

VIDEO_SCHEMA = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("frames", pa.int64())])


@dataclass(frozen=True, slots=True)
class Segment:
    """V videos: their ids, the vectors of their N frames, float16 [N, D], and inverted lists of these if they are many.

    The frames of video n are the rows from `starts[n]` to `starts[n + 1]`, int64 [V + 1]. `current` bool [V] tells
    which videos are still in the index.
    """

    ids: pa.LargeStringArray
    starts: Numbers
    current: NDArray[np.bool_]
    vectors: NDArray[np.float16]
    lists: Any | None


def index_segments(root: Path, *, merge_all: bool = False) -> Path:
    """Bring the segments of the index of videos at `root` up to date, and return their folder; see `write_segments`."""
    return write_segments(_VideoContent(VideoIndex.open(root)), merge_all=merge_all)


def open_segments(index: VideoIndex) -> Sequence[Segment]:
    """Open the segments of an index of videos, once per process until it changes.

    Raises `InputError` if they do not hold all of its shards.
    """
    return open_current(_VideoContent(index))


class _VideoContent(SegmentContent[Segment]):
    index: VideoIndex
    unit: ClassVar[str] = "frames"
    largest: ClassVar[int] = LARGEST_SEGMENT

    @property
    def made_by(self) -> str:
        return digest_of("videos", FORMAT, SMALLEST_WITH_LISTS)

    def size(self, shard: int) -> int:
        return count_checked_rows(descriptors_path(self.index.root, shard), receipt_path(self.index.root, shard))

    def write(self, path: Path, shards: Sequence[int], form: str, work: StepRun) -> None:
        rows: list[tuple[str, int, int]] = []
        for shard in shards:
            counts = dict(self.index.frame_counts(shard))
            without = [identity for identity in self.index.ids_in(shard) if identity not in counts]
            rows += [(identity, shard, counts.get(identity, 0)) for identity in [*counts, *without]]
        vectors_path, total = path.with_suffix(".npy"), sum(count for *_, count in rows)
        with atomic_path(vectors_path) as temporary:
            # Shard after shard, so that memory holds one, not all frames.
            with temporary.open("wb") as file:
                for number, shard in enumerate(shards):
                    vectors = self.index.vectors(shard).astype(np.float16)
                    if number == 0:
                        header = {"descr": "<f2", "fortran_order": False, "shape": (total, vectors.shape[1])}
                        npy.write_array_header_1_0(file, header)
                    file.write(vectors.tobytes())
                    work.advance(len(vectors))
            if total >= SMALLEST_WITH_LISTS:
                lists = build_frame_lists(np.load(temporary, mmap_mode="r", allow_pickle=False))
                write_frame_lists(lists, path.with_suffix(".faiss"))
        write_table(path.with_suffix(".parquet"), table_of_rows(rows, VIDEO_SCHEMA))

    def open(self, path: Path, shards: Sequence[int]) -> Segment:
        videos = read_checked(path.with_suffix(".parquet"), record_of(path), schema=VIDEO_SCHEMA)
        ids = id_column(videos)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(videos.column("frames").to_numpy())])
        current = current_media(self.index, ids, videos.column("shard").to_numpy(), shards)
        with checked_copy(path.with_suffix(".npy"), record_of(path)) as file:
            vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        many = len(vectors) >= SMALLEST_WITH_LISTS
        lists = read_frame_lists(path.with_suffix(".faiss"), record_of(path)) if many else None
        return Segment(ids, starts, current, vectors, lists)

    def command(self) -> str:
        if "frames_per_second" in self.index.provenance:
            return super().command()
        return "copytrace import-descriptors, from the same file into a new folder"  # another system described them
