from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from copytrace.search.vector_search import BLOCK_ROWS, ExactFrameSearch

Floats = NDArray[np.float32]
AXES = np.eye(3, dtype=np.float32)


def blocks_of(*blocks: Floats) -> Callable[[], Iterable[Floats]]:
    return lambda: iter(blocks)


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_cosines_come_greatest_first_with_numbers_counted_over_all_blocks():
    search = ExactFrameSearch(blocks_of(AXES[:1], AXES[:0], AXES[1:]))
    cosines, numbers = search.nearest(np.float32([[0.6, 0, 0.8], [0, 1, 0]]), 2)
    np.testing.assert_allclose(cosines, [[0.8, 0.6], [1, 0]])
    assert numbers[0].tolist() == [2, 0]
    assert numbers[1, 0] == 1
    assert (cosines.dtype, numbers.dtype) == (np.float32, np.int64)


def test_the_search_can_be_repeated():
    search = ExactFrameSearch(blocks_of(AXES))
    for axis in (0, 1):
        assert search.nearest(AXES[axis : axis + 1], 1)[1].tolist() == [[axis]]


def test_where_there_are_fewer_frames_than_neighbours_the_rest_is_marked():
    cosines, numbers = ExactFrameSearch(blocks_of(AXES[:2])).nearest(AXES[:1], 4)
    assert cosines.tolist() == [[1, 0, -np.inf, -np.inf]]
    assert numbers.tolist() == [[0, 1, -1, -1]]


def test_without_frames_everything_is_marked_and_without_queries_there_is_nothing():
    cosines, numbers = ExactFrameSearch(blocks_of()).nearest(AXES[:2], 2)
    assert cosines.tolist() == [[-np.inf] * 2] * 2
    assert numbers.tolist() == [[-1] * 2] * 2
    assert ExactFrameSearch(blocks_of(AXES)).nearest(AXES[:0], 2)[0].shape == (0, 2)


def test_strided_and_read_only_arrays_are_searched_as_they_look():
    frames = np.repeat(AXES, 2, axis=1)[:, ::2]
    frames.flags.writeable = False
    cosines, numbers = ExactFrameSearch(blocks_of(frames)).nearest(np.asfortranarray(AXES), 1)
    assert cosines.ravel().tolist() == [1, 1, 1]
    assert numbers.ravel().tolist() == [0, 1, 2]


def test_frames_that_take_several_steps_are_ranked_as_by_numpy():
    random = np.random.default_rng(5)
    frames, queries = unit(random.normal(size=(2 * BLOCK_ROWS + 7, 4))), unit(random.normal(size=(30, 4)))
    parts = np.array_split(frames, 13)
    cosines, numbers = ExactFrameSearch(blocks_of(*parts)).nearest(queries, 20)
    expected = np.sort(queries @ frames.T, axis=1)[:, :-21:-1]
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", queries, frames[numbers]), expected, atol=1e-6)
