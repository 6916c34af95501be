from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import PointLists
from copytrace.search.descriptor_search import DescriptorSearch
from copytrace.search.image_candidates import panes_for_global_branch
from copytrace.search.mapped_vectors import widen
from copytrace.search.vector_search import noise_level

Floats = NDArray[np.float32]
# Eighths, so that sums of products are exact and ties are real ties.
eighths = st.integers(-8, 8).map(lambda n: n / 8)


def segment_of(vectors: Floats, current: NDArray[np.bool_]) -> Segment:
    ids = pa.array([str(number) for number in range(len(vectors))], pa.large_string())
    return Segment(ids, vectors.astype(np.float16), PointLists(None, np.ones((len(vectors), 2), np.float32), current))


def test_every_finite_half_widens_to_the_float_that_it_is() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 8)
    np.testing.assert_array_equal(widen(halves).view(np.uint32), halves.astype(np.float32).view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 4), st.just(5)), elements=eighths),
    arrays(np.float32, st.tuples(st.integers(0, 12), st.just(5)), elements=eighths),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(1, 15),
    st.integers(0, 99),
)
def test_segments_give_what_sorting_all_current_images_gives(
    queries: Floats, references: Floats, cuts: list[int], neighbours: int, seed: int
) -> None:
    current = np.random.default_rng(seed).random(len(references)) < 0.7
    edges = [0, *sorted(min(cut, len(references)) for cut in cuts), len(references)]
    parts = [slice(*edge) for edge in pairwise(edges)]
    search = DescriptorSearch([segment_of(references[part], current[part]) for part in parts])
    cosines, rows = search.nearest(queries, neighbours)
    assert cosines.shape == rows.shape == (len(queries), neighbours)
    kept = references[current]
    assert len(search.ids) == len(references)
    np.testing.assert_array_equal(search.vectors(np.arange(len(references))), references)
    for query, found, numbers in zip(queries, cosines, rows, strict=True):
        expected = sorted((kept @ query).tolist(), reverse=True)[:neighbours]
        assert found.tolist() == expected + [-np.inf] * (neighbours - len(expected))
        there = numbers[: len(expected)]
        assert len(set(there.tolist())) == len(there)  # of images that are as near, any may come first
        assert current[there].all()
        assert (references[there] @ query).tolist() == expected
        assert (numbers[len(expected) :] == -1).all()


@pytest.mark.parametrize(("neighbours", "skip", "level"), [(1, 0, 0.5), (2, 0, 0.375), (2, 1, 0.1875), (4, 0, 0.25)])
def test_the_noise_level_is_the_mean_of_the_nearest(neighbours: int, skip: int, level: float) -> None:
    similarity = np.array([[0.5, 0.25, 0.125, 0.125]], np.float32)
    assert noise_level(similarity, neighbours, typical=9.0, skip=skip).tolist() == [level]


def test_the_typical_level_stands_in_for_neighbours_that_are_missing() -> None:
    similarity = np.array([[0.5, 0.25, -np.inf, -np.inf], [-np.inf] * 4], np.float32)
    assert noise_level(similarity, 4, typical=0.125).tolist() == [0.25, 0.125]
    assert noise_level(similarity, 2, typical=0.125, skip=1).tolist() == [0.1875, 0.125]
    assert noise_level(similarity, 8, typical=0.125).tolist() == [0.1875, 0.125]


def test_all_panes_are_searched_by_default() -> None:
    assert panes_for_global_branch(["whole", "crop0", "crop1"], crop_replaces_whole=False).tolist() == [True] * 3


def test_like_imgfp_the_first_crop_replaces_the_whole() -> None:
    assert panes_for_global_branch(["whole", "crop0", "crop1"], crop_replaces_whole=True).tolist() == [
        False,
        True,
        False,
    ]


def test_like_imgfp_the_whole_is_searched_where_there_is_no_first_crop() -> None:
    assert panes_for_global_branch(["whole"], crop_replaces_whole=True).tolist() == [True]
    assert panes_for_global_branch(["whole", "crop1"], crop_replaces_whole=True).tolist() == [True, False]
