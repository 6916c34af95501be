from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from copytrace.features.thumbnails import BYTES, thumbnail_difference, thumbnail_keys
from copytrace.index.image_segments import Segment, SegmentThumbnails
from copytrace.index.point_lists import PointLists
from copytrace.search.thumbnail_search import FARTHEST, ThumbnailSearch, count_thumbnails

Bytes = NDArray[np.uint8]


def segment_of(pixels: Bytes, current: NDArray[np.bool_], rows: NDArray[np.int64]) -> Segment:
    ids = pa.array(list(map(str, range(len(pixels)))), pa.large_string())
    points = PointLists(None, np.ones((len(pixels), 2), np.float32), current)
    thumbnails = SegmentThumbnails(pixels, rows, thumbnail_keys(pixels[rows])) if len(rows) else None
    return Segment(ids, np.zeros((len(pixels), 2), np.float16), points, thumbnails)


@pytest.mark.parametrize("seed", range(4))
def test_a_search_finds_what_comparing_with_all_thumbnails_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain = np.repeat(rng.integers(100, 110, (60, 1)), BYTES, axis=1)  # of gray levels so near that many are alike
    pixels = (plain + rng.integers(-1, 2, plain.shape)).astype(np.uint8)
    current, known = rng.random(60) < 0.8, rng.random(60) < 0.8
    parts = [slice(0, 25), slice(25, 30), slice(30, 60)]
    known[parts[1]] = False  # a segment that an older version wrote
    segments = [segment_of(pixels[part], current[part], np.flatnonzero(known[part])) for part in parts]
    assert count_thumbnails(segments) == (current & known).sum()
    search = ThumbnailSearch(segments)
    for query in pixels[:10]:
        apart = {row: thumbnail_difference(query, pixels[row]) for row in np.flatnonzero(current & known).tolist()}
        # Keys may differ by more than a search looks at where thumbnails differ by more than that.
        near = sorted((difference, row) for row, difference in apart.items() if difference <= 4)
        differences, rows = search.nearest(query, 60)
        found = list(zip(differences.tolist(), rows.tolist(), strict=True))
        assert found[: len(near)] == near
        assert found == sorted(found)
        assert max(differences, default=0) < FARTHEST
        np.testing.assert_array_equal(search.nearest(query, 3)[1], rows[:3])


def test_without_thumbnails_nothing_is_found() -> None:
    none = segment_of(np.zeros((3, BYTES), np.uint8), np.ones(3, bool), np.zeros(0, np.int64))
    for segments in ([], [none]):
        differences, rows = ThumbnailSearch(segments).nearest(np.zeros(BYTES, np.uint8), 5)
        assert (differences.shape, rows.shape) == ((0,), (0,))
