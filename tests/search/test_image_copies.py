"""Copies among the references nearest to a query count once, if their thumbnails are the same too."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.features.thumbnails import BYTES, KEY_BYTES
from copytrace.index.image_segments import Segment, SegmentThumbnails
from copytrace.index.point_lists import PointLists
from copytrace.search.descriptor_search import DescriptorSearch
from copytrace.search.image_copies import find_nearest_images

Floats = NDArray[np.float32]
QUERY = np.eye(1, 64, dtype=np.float32)


def picture(cosine: float, axis: int) -> Floats:
    """Return a vector of this cosine to the query; those of other axes are other pictures."""
    vector = np.zeros(64, np.float32)
    vector[0], vector[axis] = cosine, (1 - cosine**2) ** 0.5
    return vector


def search_of(pictures: list[tuple[Floats, int | None]]) -> DescriptorSearch:
    """Return a search of pictures and what their keys are filled with; None: they have no thumbnail."""
    halves, count = np.array([vector for vector, _ in pictures]).astype(np.float16), len(pictures)
    rows = np.array([row for row, (_, key) in enumerate(pictures) if key is not None], np.int64)
    keys = np.array([[pictures[row][1]] * KEY_BYTES for row in rows], np.uint8).reshape(-1, KEY_BYTES)
    ids = pa.array([str(row) for row in range(count)], pa.large_string())
    points = PointLists(None, np.ones((count, 2), np.float32), np.ones(count, bool))
    return DescriptorSearch([Segment(ids, halves, points, SegmentThumbnails(np.zeros((count, BYTES)), rows, keys))])


def test_copies_of_the_nearest_and_of_other_pictures_count_once() -> None:
    pictures = [picture(0.5, 1), picture(0.45, 2), picture(0.44, 2), picture(0.43, 1), picture(0.4, 3)]
    search = search_of(list(zip(pictures, [10, 20, 21, 90, 20], strict=True)))
    nearest = find_nearest_images(search, QUERY, 6, 2)
    assert nearest.rows.tolist() == [[0, 1, 2, 3, 4, -1]]
    assert nearest.is_first.tolist() == [[True, True, False, True, True, False]]
    assert nearest.is_nearest.tolist() == [[True, False, False, True, False, False]]
    np.testing.assert_allclose(nearest.other_cosines()[0, :2], [0.45, 0.4], atol=1e-3)
    assert np.isneginf(nearest.other_cosines()[0, 2:]).all()


def test_pictures_without_thumbnails_or_with_others_are_no_copies() -> None:
    for keys in ([None] * 4, [10, None, 12, 14], [10, 12, 14, 16]):
        search = search_of([(picture(0.5 - 0.01 * number, 1), key) for number, key in enumerate(keys)])
        assert find_nearest_images(search, QUERY, 4, 1).is_first.all()


def test_where_copies_leave_no_room_more_is_looked_for() -> None:
    copies = [(picture(0.5, 1), 10)] + [(picture(0.45 - 0.001 * number, 2), 20) for number in range(9)]
    others = [(picture(0.3 - 0.01 * axis, axis), 10 * axis) for axis in range(3, 8)]
    search = search_of([*copies, *others])
    queries = np.concatenate([QUERY, picture(0.0, 40)[None]])
    assert find_nearest_images(search, queries, 4, 2).rows.shape == (2, 4)
    nearest = find_nearest_images(search, queries, 4, 5)
    assert nearest.rows.shape == (2, 32)
    assert nearest.rows[0, nearest.is_first[0]].tolist() == [0, 1, *range(10, 15)]
    assert (nearest.rows[0] >= 0).sum() == len(copies) + len(others)
