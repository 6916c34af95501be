from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from copytrace.search.image_candidates import panes_for_global_branch
from copytrace.search.vector_search import find_nearest, noise_level

Floats = NDArray[np.float32]
# Eighths, so that sums of products are exact and ties are real ties.
eighths = st.integers(-8, 8).map(lambda n: n / 8)


def blocks_of(vectors: Floats, cuts: list[int]) -> list[Floats]:
    edges = [0, *sorted(min(cut, len(vectors)) for cut in cuts), len(vectors)]
    return [vectors[start:end] for start, end in pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 4), st.just(5)), elements=eighths),
    arrays(np.float32, st.tuples(st.integers(0, 12), st.just(5)), elements=eighths),
    st.lists(st.integers(0, 12), max_size=4),
    st.integers(1, 15),
)
def test_blocks_give_what_sorting_everything_gives(
    queries: Floats, references: Floats, cuts: list[int], neighbours: int
) -> None:
    cosines, rows = find_nearest(queries, blocks_of(references, cuts), neighbours)
    assert cosines.shape == rows.shape == (len(queries), neighbours)
    for query, found, numbers in zip(queries, cosines, rows, strict=True):
        all_cosines = (references @ query).tolist()
        expected = sorted(range(len(references)), key=lambda row: (-all_cosines[row], row))[:neighbours]
        missing = neighbours - len(expected)
        assert numbers.tolist() == expected + [-1] * missing
        assert found.tolist() == [all_cosines[row] for row in expected] + [-np.inf] * missing


def test_without_references_nothing_is_near() -> None:
    cosines, rows = find_nearest(np.ones((2, 3), np.float32), [], 2)
    assert cosines.tolist() == [[-np.inf] * 2] * 2
    assert rows.tolist() == [[-1, -1]] * 2


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
