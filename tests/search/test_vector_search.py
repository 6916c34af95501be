from collections.abc import Callable, Iterable

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.search import vector_search
from copytrace.search.nearest_hits import NearestHits
from copytrace.search.vector_search import BLOCK_ROWS, TILE_ROWS, ExactFrameSearch

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


def test_of_equal_cosines_the_first_frames_are_kept_whatever_block_they_are_in():
    frames = np.concatenate([AXES[:1]] * 5 + [AXES[1:2]] * 5)
    for parts in (1, 3, 10):
        _, numbers = ExactFrameSearch(blocks_of(*np.array_split(frames, parts))).nearest(AXES[:2], 4)
        assert numbers.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_equal_cosines_at_the_end_of_those_kept_are_the_first_ones_of_many():
    frames = np.repeat(AXES, (BLOCK_ROWS, BLOCK_ROWS, 3), axis=0)
    _, numbers = ExactFrameSearch(blocks_of(frames)).nearest(AXES, 6)
    assert numbers[:2].tolist() == [list(range(6)), list(range(BLOCK_ROWS, BLOCK_ROWS + 6))]
    assert numbers[2].tolist() == [2 * BLOCK_ROWS, 2 * BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 2, 0, 1, 2]


def test_negative_cosines_are_ranked_too():
    cosines, numbers = ExactFrameSearch(blocks_of(-AXES, AXES * np.float32(0.5))).nearest(AXES[:1], 6)
    assert cosines.tolist() == [[0.5, 0, 0, 0, 0, -1]]
    assert (numbers[0, 0], numbers[0, -1], set(numbers[0])) == (3, 0, set(range(6)))


@pytest.mark.parametrize("queries", [3, 80])
@pytest.mark.parametrize("neighbours", [1, 2, 3, 4, 5])
def test_frames_without_a_cosine_are_never_found_and_hide_no_others(queries: int, neighbours: int) -> None:
    nowhere = np.full((1, 3), np.nan, np.float32)
    frames = np.concatenate([nowhere, AXES, nowhere])
    asked = np.resize(AXES + np.float32([0.1, 0.2, 0.3]), (queries, 3))
    cosines, numbers = ExactFrameSearch(blocks_of(frames)).nearest(asked, neighbours)
    expected = np.argsort(-(asked @ AXES.T), axis=1, kind="stable")[:, :neighbours] + 1
    missing = max(neighbours - 3, 0)
    np.testing.assert_array_equal(numbers, np.pad(expected, ((0, 0), (0, missing)), constant_values=-1))
    assert np.isneginf(cosines[:, 3:]).all()


def test_threads_that_search_several_tiles_find_what_one_does():
    random = np.random.default_rng(6)
    frames, queries = unit(random.normal(size=(BLOCK_ROWS + 9, 8))), unit(random.normal(size=(3 * TILE_ROWS + 5, 8)))
    threads, found = faiss.omp_get_max_threads(), []
    try:
        for count in (1, 3):
            faiss.omp_set_num_threads(count)
            found.append(ExactFrameSearch(blocks_of(frames[:900], frames[900:])).nearest(queries, 30))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    for cosines, numbers in found:
        expected = np.sort(queries @ frames.T, axis=1)[:, :-31:-1]
        np.testing.assert_allclose(cosines, expected, atol=1e-6)
        np.testing.assert_allclose(np.einsum("qd,qkd->qk", queries, frames[numbers]), expected, atol=1e-6)


def test_hits_that_a_device_found_are_joined_by_cosine_and_row():
    hits = NearestHits(2, 3)
    hits.add(np.float32([[0.5, 0.25], [-0.5, -np.inf]]), np.int64([[7, 9], [4, -1]]))
    hits.add(np.float32([[0.5, 0.75], [0.0, 0.0]]), np.int64([[6, 20], [31, 30]]))
    cosines, numbers = hits.sorted()
    assert cosines.tolist() == [[0.75, 0.5, 0.5], [0, 0, -0.5]]
    assert numbers.tolist() == [[20, 6, 7], [30, 31, 4]]


class Device:
    """Stands for a GPU: it finds what numpy does, and counts its blocks."""

    def __init__(self) -> None:
        self.blocks = 0

    def nearest(self, queries: Floats, vectors: Floats, neighbours: int) -> tuple[Floats, NDArray[np.int64]]:
        self.blocks += 1
        cosines = queries @ vectors.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
        return np.take_along_axis(cosines, rows, axis=1), rows


def test_several_gpus_take_a_block_each_and_find_together_what_a_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(7)
    frames, queries = unit(random.normal(size=(1000, 8))), unit(random.normal(size=(9, 8)))
    search = ExactFrameSearch(blocks_of(*np.array_split(frames, 50)))
    expected = search.nearest(queries, 150)
    devices = [Device(), Device(), Device()]
    monkeypatch.setattr(vector_search, "list_gpus", lambda: tuple(devices))
    monkeypatch.setattr(vector_search, "GPU_BLOCK_ROWS", 100)
    found = search.nearest(queries, 150)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    np.testing.assert_array_equal(found[1], expected[1])
    assert [device.blocks for device in devices] == [4, 3, 3]
