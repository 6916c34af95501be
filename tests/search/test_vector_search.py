from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.search.vector_search import (
    BLOCK_ROWS,
    SMALLEST_WITH_LISTS,
    ExactFrameSearch,
    ListFrameSearch,
    build_frame_search,
)

Floats = NDArray[np.float32]
AXES = np.eye(3, dtype=np.float32)


def blocks_of(*blocks: Floats) -> Callable[[], Iterable[Floats]]:
    return lambda: iter(blocks)


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def scenes() -> tuple[Floats, Floats]:
    """12,000 frames in scenes of 10, and 200 edited copies of some, about 0.6 alike to what they were copied from."""
    random = np.random.default_rng(11)
    scene = np.repeat(random.normal(size=(1_200, 256)), 10, axis=0)
    frames = unit(scene + random.normal(size=scene.shape) * 0.5)
    copied = frames[random.choice(len(frames), 200, replace=False)]
    return frames, unit(copied + unit(random.normal(size=copied.shape)) * 1.3)


@pytest.fixture(scope="module")
def one_list(scenes: tuple[Floats, Floats]) -> ListFrameSearch:
    """All frames in one block; each query looks into one list."""
    return ListFrameSearch(blocks_of(scenes[0]), len(scenes[0]), lists_searched=1)


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


def test_inverted_lists_find_nearly_all_that_comparing_with_every_frame_finds(scenes: tuple[Floats, Floats]):
    frames, queries = scenes
    lists = ListFrameSearch(blocks_of(*np.array_split(frames, 3)), len(frames), lists_searched=default_lists())
    _, numbers = lists.nearest(queries, 10)
    _, expected = ExactFrameSearch(blocks_of(frames)).nearest(queries, 10)
    found = [len(np.intersect1d(*rows)) / 10 for rows in zip(numbers, expected, strict=True)]
    assert np.mean(found) > 0.95


def default_lists() -> int:
    return FrameSearchSettings().lists_searched


def test_inverted_lists_all_looked_into_give_the_exact_cosines_to_half_precision(scenes: tuple[Floats, Floats]):
    frames, queries = scenes
    lists = ListFrameSearch(blocks_of(frames), len(frames), lists_searched=1 << 20)
    cosines, _ = lists.nearest(queries, 50)
    np.testing.assert_allclose(cosines, ExactFrameSearch(blocks_of(frames)).nearest(queries, 50)[0], atol=2e-3)


def test_inverted_lists_mark_what_they_do_not_find(scenes: tuple[Floats, Floats], one_list: ListFrameSearch):
    cosines, numbers = one_list.nearest(scenes[1], 2000)
    assert (numbers[:, -1] == -1).all()
    np.testing.assert_array_equal(cosines == -np.inf, numbers == -1)
    assert (np.diff(np.where(numbers < 0, -2, cosines), axis=1) <= 0).all()


def test_the_same_frames_in_other_blocks_give_the_same_inverted_lists(
    scenes: tuple[Floats, Floats], one_list: ListFrameSearch
):
    frames, queries = scenes
    other = ListFrameSearch(blocks_of(*np.array_split(frames, 7)), len(frames), lists_searched=1)
    # A frame between two lists may fall to either by rounding.
    assert np.mean(other.nearest(queries, 5)[1] == one_list.nearest(queries, 5)[1]) > 0.98


def test_a_few_frames_or_a_wish_for_exactness_make_an_exact_search(scenes: tuple[Floats, Floats]):
    frames = scenes[0]

    def kind(count: int, *, exact: bool) -> type:
        def blocks() -> Iterator[Floats]:
            yield frames[:count]

        return type(build_frame_search(blocks, count, exact=exact, lists_searched=1))

    assert kind(SMALLEST_WITH_LISTS - 1, exact=False) is ExactFrameSearch
    assert kind(SMALLEST_WITH_LISTS, exact=True) is ExactFrameSearch
    assert kind(SMALLEST_WITH_LISTS, exact=False) is ListFrameSearch
