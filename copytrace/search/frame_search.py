"""Search of the frames of an index of videos, which are mapped into memory: by all of them, or by inverted lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.arrays import Floats, Numbers
from copytrace.index.segments import ids_of
from copytrace.index.video_index import VideoIndex
from copytrace.index.video_segments import Segment, open_segments
from copytrace.search.list_search import ListFrameSearch
from copytrace.search.mapped_vectors import MappedVectors, current_runs, least_variance
from copytrace.search.vector_search import MAX_NEIGHBORS, FrameSearch


@dataclass(frozen=True, slots=True)
class FrameHits:
    """The K reference frames nearest to each of Q query frames, nearest first.

    `cosines` float32 [Q, K]; `rows` int64 [Q, K] and `videos` int32 [Q, K] are the number of the frame and of its
    video. Where there are fewer than K frames, cosines are −inf, and rows and videos −1.
    """

    cosines: Floats
    rows: Numbers
    videos: NDArray[np.int32]

    def __getitem__(self, queries: slice | Numbers) -> FrameHits:
        """Return the hits of some query frames."""
        return FrameHits(self.cosines[queries], self.rows[queries], self.videos[queries])

    def __setitem__(self, queries: slice | Numbers, hits: FrameHits) -> None:
        self.cosines[queries], self.rows[queries], self.videos[queries] = hits.cosines, hits.rows, hits.videos

    def widen(self, neighbours: int) -> FrameHits:
        """Return the same hits with room for K = `neighbours`."""
        more = ((0, 0), (0, neighbours - self.rows.shape[1]))
        return FrameHits(
            np.pad(self.cosines, more, constant_values=-np.inf),
            np.pad(self.rows, more, constant_values=-1),
            np.pad(self.videos, more, constant_values=-1),
        )


@dataclass(frozen=True, slots=True)
class VideoFrameSearch:
    """A search of the frames of the current videos of an index.

    `ids` are those of V videos, and the frames of video n are rows `starts[n]` to `starts[n + 1]`, int64 [V + 1], of
    `vectors`. Videos that are not `current`, bool [V], are never found.
    """

    search: FrameSearch
    vectors: MappedVectors
    ids: pa.LargeStringArray
    starts: Numbers
    current: NDArray[np.bool_]

    def position_of(self, identity: str) -> int:
        """Return the number of a current video; −1 if there is none of this id."""
        positions = np.flatnonzero(pc.equal(self.ids, identity).to_numpy(zero_copy_only=False) & self.current)
        return int(positions[0]) if len(positions) else -1

    def nearest_of_others(self, queries: Floats, own: NDArray[np.int32], neighbours: int) -> FrameHits:
        """Return the frames nearest to `queries` float32 [Q, D].

        `own` int32 [Q, M] are the videos whose frames are left out for each query frame; −1 stands for none.
        """
        rows_of_own = np.where(own < 0, 0, np.diff(self.starts)[own] if len(self.ids) else 0).sum(axis=1).max(initial=0)
        requested = max(neighbours, min(neighbours + int(rows_of_own), MAX_NEIGHBORS))
        cosines, rows = self.search.nearest(queries, requested)
        videos = np.where(rows < 0, -1, np.searchsorted(self.starts, rows, side="right") - 1).astype(np.int32)
        for column in own.T:
            videos[videos == column[:, None]] = -1
        kept = np.argsort(videos < 0, axis=1, kind="stable")[:, :neighbours]
        videos = np.take_along_axis(videos, kept, axis=1)
        none = videos < 0
        return FrameHits(
            np.where(none, np.float32(-np.inf), np.take_along_axis(cosines, kept, axis=1)),
            np.where(none, -1, np.take_along_axis(rows, kept, axis=1)),
            videos,
        )

    def best_of_videos(self, queries: Floats) -> Floats:
        """Return the greatest cosine of each query frame in each video, float32 [Q, V]; −inf if it is not current."""
        best = np.full((len(queries), len(self.ids)), -np.inf, np.float32)
        for first, block in self.vectors.blocks_with_rows():
            cosines = queries @ block.T
            video = np.searchsorted(self.starts, np.arange(first, first + len(block)), side="right") - 1
            columns, starts = np.unique(video, return_index=True)
            best[:, columns] = np.maximum(best[:, columns], np.maximum.reduceat(cosines, starts, axis=1))
        return best


def load_frame_search(
    videos: VideoIndex, settings: FrameSearchSettings, dropped: int | None = None
) -> VideoFrameSearch:
    """Return a search of the frames of an index; its segments are opened once per process until it changes.

    With `dropped`, vectors are without the number at that place, see `drop_number`. Raises `InputError` if the index
    lacks segments.
    """
    segments = open_segments(videos)
    parts = [segment.vectors for segment in segments], [_runs(segment) for segment in segments]
    vectors = MappedVectors(*parts, dropped)
    exact = settings.index == "exact"
    firsts = np.cumsum([0, *(len(segment.vectors) for segment in segments)])
    starts = [segment.starts[:-1] + first for segment, first in zip(segments, firsts, strict=False)]
    return VideoFrameSearch(
        vectors if exact else ListFrameSearch(segments, lists_searched=settings.lists_searched),
        vectors,
        ids_of(segments),
        np.concatenate([*starts, firsts[-1:]]),
        np.concatenate([np.zeros(0, bool), *(segment.current for segment in segments)]),
    )


def _runs(segment: Segment) -> Numbers:
    return current_runs(segment.current, segment.starts)


def place_of_least_variance(videos: VideoIndex) -> int | None:
    """Return the place of the number that varies least among the frames of an index; see `least_variance`."""
    return _place_of_least_variance(videos.root, videos.fingerprint)


@lru_cache(maxsize=2)
def _place_of_least_variance(root: Path, fingerprint: str) -> int | None:
    """Return the place, which all shards of queries ask for, from one reading of the index in this state."""
    segments = open_segments(VideoIndex.open(root))
    return least_variance(MappedVectors([each.vectors for each in segments], [_runs(each) for each in segments]))
