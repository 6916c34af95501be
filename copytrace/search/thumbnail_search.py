"""Search of the images of an index whose thumbnails differ from a query's by next to nothing.

The keys of all thumbnails are in memory, 18 bytes each, sorted by their mean luma. Only those in a narrow band of it
are compared, and only thumbnails with nearly the same key are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from copytrace.arrays import Floats, Numbers
from copytrace.features.points import Bytes
from copytrace.features.thumbnails import BYTES, KEY_BYTES, KEY_SIDE, thumbnail_differences, thumbnail_keys
from copytrace.index.image_segments import Segment

FARTHEST = 8.0  # difference of thumbnails up to which images are found; see `features.thumbnails`
KEY_TOLERANCE = 4  # by which each pixel of two keys may differ, in gray levels
MOST_READ = 4096  # thumbnails read for a query, those with the most similar keys


class ThumbnailSearch:
    """A search of the current images of segments by their thumbnails, as rows through all of their images."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._first = np.cumsum([0, *(len(segment.ids) for segment in segments)])
        self._thumbnails = [segment.thumbnails for segment in segments]
        keys, rows = [np.zeros((0, KEY_BYTES), np.uint8)], [np.zeros(0, np.int64)]
        for segment, first in zip(segments, self._first.tolist(), strict=False):
            if segment.thumbnails:
                current = segment.points.current[segment.thumbnails.rows]
                keys.append(segment.thumbnails.keys[current])
                rows.append(segment.thumbnails.rows[current] + first)
        luma = _mean_luma(np.concatenate(keys))
        order = np.argsort(luma, kind="stable")
        self._luma, self._keys, self._rows = luma[order], np.concatenate(keys)[order], np.concatenate(rows)[order]

    def nearest(self, thumbnail: Bytes, most: int) -> tuple[Floats, Numbers]:
        """Return the differences float32 [K] of the thumbnails nearest to uint8 [864], least first, and rows int64 [K].

        At most `most` are returned, of equal ones those of the first rows, and none that differs by `FARTHEST` or more.
        """
        (key,) = thumbnail_keys(thumbnail[None]).astype(np.int16)
        mean = _mean_luma(key[None])[0]
        low, high = np.searchsorted(self._luma, [mean - KEY_TOLERANCE, mean + KEY_TOLERANCE])
        apart = np.abs(self._keys[low:high] - key)
        near = np.flatnonzero(apart.max(axis=1, initial=0) <= KEY_TOLERANCE)
        near = near[np.argsort(apart[near].sum(axis=1), kind="stable")[:MOST_READ]]
        rows = np.sort(self._rows[low:high][near])
        (differences,) = thumbnail_differences(thumbnail[None], self._read(rows))
        order = np.argsort(differences, kind="stable")
        order = order[differences[order] < FARTHEST][:most]
        return differences[order], rows[order]

    def _read(self, rows: Numbers) -> Bytes:
        part = np.searchsorted(self._first, rows, side="right") - 1
        read = np.zeros((len(rows), BYTES), np.uint8)
        for number in np.unique(part).tolist():
            thumbnails, here = self._thumbnails[number], part == number
            if thumbnails is not None:
                read[here] = thumbnails.read(rows[here] - self._first[number])
        return read


def count_thumbnails(segments: Sequence[Segment]) -> int:
    """Return how many of the current images of segments have a thumbnail."""
    thumbnails = [(segment.thumbnails.rows, segment.points.current) for segment in segments if segment.thumbnails]
    return sum(int(current[rows].sum()) for rows, current in thumbnails)


def _mean_luma(keys: Bytes) -> Floats:
    return np.asarray(keys[:, : KEY_SIDE**2].mean(axis=1, dtype=np.float32), np.float32)
