"""Search of the images of an index whose descriptors are nearest to those of queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from copytrace.arrays import Floats, Numbers
from copytrace.features.thumbnails import KEY_BYTES
from copytrace.index.image_segments import Segment
from copytrace.index.segments import ids_of
from copytrace.search.mapped_vectors import MappedVectors, current_runs


class DescriptorSearch:
    """A search of the current images of segments, by their descriptors; `ids` has the ids of all their images."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.ids, self._segments = ids_of(segments), segments
        self._first = np.cumsum([0, *(len(segment.ids) for segment in segments)])
        runs = [
            current_runs(segment.points.current, np.arange(len(segment.ids) + 1, dtype=np.int64))
            for segment in segments
        ]
        self._vectors = MappedVectors([segment.vectors for segment in segments], runs)

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and rows int64 [Q, K]; −inf and −1 for none."""
        return self._vectors.nearest(queries, neighbours)

    def vectors(self, rows: Numbers) -> Floats:
        """Return the descriptors of N rows, float32 [N, D]."""
        return self._vectors.take(rows)

    def thumbnail_keys(self, rows: Numbers) -> Numbers:
        """Return the keys of the thumbnails of N rows, int64 [N, 18]; see `features.thumbnails.thumbnail_keys`.

        Images without a thumbnail have negative keys, of which each is 2 or more from all others.
        """
        keys = np.repeat(-2 * (rows[:, None] + 1), KEY_BYTES, axis=1)
        part = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(part).tolist():
            thumbnails, here = self._segments[number].thumbnails, np.flatnonzero(part == number)
            if thumbnails is not None and len(thumbnails.rows):
                wanted = rows[here] - self._first[number]
                place = np.searchsorted(thumbnails.rows, wanted).clip(max=len(thumbnails.rows) - 1)
                known = thumbnails.rows[place] == wanted
                keys[here[known]] = thumbnails.keys[place[known]]
        return keys
