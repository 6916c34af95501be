"""Search of the images of an index whose descriptors are nearest to those of queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from copytrace.arrays import Floats, Numbers
from copytrace.index.segments import Segment, ids_of
from copytrace.search.vector_search import BLOCK_ROWS, ExactFrameSearch


class DescriptorSearch:
    """A search of the current images of segments, by their descriptors; `ids` has their ids, in the order of rows."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._rows = [np.flatnonzero(segment.points.current) for segment in segments]
        self.ids = ids_of(segments).take(pa.array(np.concatenate([np.zeros(0, np.int64), *self._offset_rows()])))
        self._search = ExactFrameSearch(self._blocks)

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and rows int64 [Q, K]; −inf and −1 for none."""
        return self._search.nearest(queries, neighbours)

    def vectors(self, rows: Numbers) -> Floats:
        """Return the descriptors of N rows, float32 [N, D]."""
        starts = np.cumsum([0, *map(len, self._rows)])
        part = np.searchsorted(starts, rows, side="right") - 1
        found = np.zeros((len(rows), self._segments[0].vectors.shape[1]), np.float32)
        for number, segment in enumerate(self._segments):
            here = part == number
            found[here] = segment.vectors[self._rows[number][rows[here] - starts[number]]]
        return found

    def _blocks(self) -> Iterator[Floats]:
        for segment, rows in zip(self._segments, self._rows, strict=True):
            whole = len(rows) == len(segment.vectors)
            for start in range(0, len(rows), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                yield segment.vectors[part if whole else rows[part]].astype(np.float32)

    def _offset_rows(self) -> Iterator[Numbers]:
        start = 0
        for segment, rows in zip(self._segments, self._rows, strict=True):
            yield rows + start
            start += len(segment.vectors)
