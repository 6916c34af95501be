"""Search of inverted lists of frames: those queries that look into a list are compared with it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from copytrace.arrays import Floats, Numbers
from copytrace.index.frame_lists import frames_of_list, nearest_lists
from copytrace.index.video_segments import Segment
from copytrace.search.mapped_vectors import MappedVectors, current_runs, widen
from copytrace.search.nearest_hits import FEW, NearestHits
from copytrace.search.vector_search import BLOCK_ROWS, TILE_ROWS, core_count


class ListFrameSearch:
    """A search of the `lists_searched` lists of each segment that are nearest to a query frame.

    Segments too small for lists are compared with as a whole. Frames in lists that are not searched are missed.

    A list is read and widened once for all queries that look into it, and multiplied with them by BLAS. faiss goes
    through the lists of each query alone: for thousands of queries, that takes several times as long.
    """

    def __init__(self, segments: Sequence[Segment], *, lists_searched: int) -> None:
        self._segments, self._lists_searched = segments, lists_searched
        self._first = np.cumsum([0, *(len(segment.vectors) for segment in segments)])
        none = np.zeros((0, 2), np.int64)
        runs = [
            none if segment.lists is not None else current_runs(segment.current, segment.starts) for segment in segments
        ]
        self._rest = MappedVectors([segment.vectors for segment in segments], runs)

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`. Of equal cosines, those of the first frames are returned, in their order."""
        queries = np.ascontiguousarray(queries, np.float32)
        hits = NearestHits(len(queries), neighbours)
        hits.add(*self._rest.nearest(queries, neighbours))
        for segment, first in zip(self._segments, self._first, strict=False):
            if segment.lists is not None:
                current = None if segment.current.all() else np.repeat(segment.current, np.diff(segment.starts))
                search_lists(hits, segment.lists, queries, self._lists_searched, current, int(first))
        return hits.sorted()


def search_lists(
    hits: NearestHits,
    lists: Any,
    queries: Floats,
    lists_searched: int,
    current: NDArray[np.bool_] | None = None,
    first: int = 0,
) -> None:
    """Keep the hits of `queries` float32 [Q, D] in the `lists_searched` lists that are nearest to each of them.

    Row n of the lists is counted as `first` + n. If `current` bool [N] is given, only rows of it are compared with.
    """
    chosen = nearest_lists(lists, queries, lists_searched)

    def search(part: Numbers) -> None:
        for number, looking in _queries_by_list(chosen, part):
            rows, vectors = frames_of_list(lists, number)
            kept = slice(None) if current is None else current[rows]
            _compare(hits, queries, looking, vectors[kept], rows[kept] + first)

    # A query is only in one part, so that threads do not keep hits of the same one.
    parts = np.array_split(np.arange(len(queries)), max(min(core_count(), len(queries) // FEW), 1))
    if len(parts) == 1:
        search(parts[0])
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(search, parts))


def _queries_by_list(chosen: Numbers, part: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Yield each list that queries of `part` look into, with these queries, ascending; `chosen` int64 [Q, L]."""
    lists = chosen[part].ravel()
    order = np.argsort(lists, kind="stable")
    queries, numbers = part[order // max(chosen.shape[1], 1)], lists[order]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))  # −1 stands for no list, and comes first
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        yield int(numbers[start]), queries[start:stop]


def _compare(hits: NearestHits, queries: Floats, looking: Numbers, vectors: NDArray[np.float16], rows: Numbers) -> None:
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        wide = widen(vectors[block])
        for tile in range(0, len(looking), TILE_ROWS):
            hits.compare(queries, looking[tile : tile + TILE_ROWS], wide, rows[block])
