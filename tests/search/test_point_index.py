from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copytrace.index.shard_files import View
from copytrace.search import local_recall
from copytrace.search.local_recall import SMALLEST_WITH_LISTS, PointIndex, build_point_index

Bytes = NDArray[np.uint8]
MakeView = Callable[..., View]
Descriptors = Callable[[int, int], Bytes]
NOWHERE = np.finfo(np.float32).max


def squared(first: Bytes, second: Bytes) -> NDArray[np.int64]:
    differences = first[:, None].astype(np.int64) - second[None].astype(np.int64)
    return np.asarray((differences**2).sum(axis=2))


def keypoints(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).uniform(1, 90, (count, 4)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 1000))
def test_a_small_index_answers_like_brute_force(
    view_of: MakeView, random_descriptors: Descriptors, counts: list[int], neighbours: int, seed: int
) -> None:
    views = [view_of(f"r{n}", keypoints(count), random_descriptors(count, seed + n)) for n, count in enumerate(counts)]
    index = build_point_index(views, exact=False, lists_searched=1)
    query = random_descriptors(3, seed + 99)
    distances, points = index.search(query, neighbours)
    expected = np.sort(squared(query, np.concatenate([view.points.descriptor for view in views])), axis=1)
    there = min(neighbours, sum(counts))
    np.testing.assert_array_equal(distances[:, :there], expected[:, :there])
    assert (points[:, :there] >= 0).all()
    assert (points[:, there:] == -1).all()
    assert (distances[:, there:] == NOWHERE).all()


def test_points_know_their_reference_and_where_they_are(view_of: MakeView, random_descriptors: Descriptors) -> None:
    views = [
        view_of("a", [[50, 25, 4, 1]], random_descriptors(1, 0)),
        view_of("none", [], random_descriptors(0, 1)),
        view_of("b", [[10, 20, 2, 0], [30, 40, 2, 0]], random_descriptors(2, 2)),
    ]
    index = build_point_index(views, exact=True, lists_searched=1)
    assert index.ids == ("a", "none", "b")
    assert index.image.tolist() == [0, 2, 2]
    np.testing.assert_allclose(index.geometry[0], [0.5, 0.25, 0.04, 1])
    np.testing.assert_allclose(index.center, 0.5)
    _, points = index.search(views[2].points.descriptor, 1)
    assert points[:, 0].tolist() == [1, 2]


def test_the_centre_of_a_wide_reference_is_told_in_short_sides(
    points_of: Callable[..., object], random_descriptors: Descriptors
) -> None:
    wide = View("wide", "whole", points_of([[5, 5, 2, 0]], random_descriptors(1, 0), width=300, height=100))
    assert build_point_index([wide], exact=True, lists_searched=1).center.tolist() == [[1.5, 0.5]]


@pytest.mark.parametrize("exact", [True, False])
def test_an_empty_index_finds_nothing(view_of: MakeView, random_descriptors: Descriptors, exact: bool) -> None:
    for views in ([], [view_of("none", [], random_descriptors(0, 0))]):
        index = build_point_index(views, exact=exact, lists_searched=4)
        distances, points = index.search(random_descriptors(2, 1), 3)
        assert (distances == NOWHERE).all()
        assert points.tolist() == [[-1] * 3] * 2


def large_index(view_of: MakeView, descriptors: Bytes, *, exact: bool, lists_searched: int = 8) -> PointIndex:
    halves = np.array_split(descriptors, 2)
    views = [view_of(f"r{n}", keypoints(len(half)), half) for n, half in enumerate(halves)]
    return build_point_index(views, exact=exact, lists_searched=lists_searched)


def edited(descriptors: Bytes) -> Bytes:
    """Return descriptors as far from these as those of a copied photo are: about 2,000, squared."""
    noise = np.random.default_rng(5).normal(0, 4, descriptors.shape)
    return np.clip(np.rint(descriptors + noise), 0, 255).astype(np.uint8)


def test_lists_find_nearly_all_that_looking_at_every_point_finds(
    view_of: MakeView, random_descriptors: Descriptors
) -> None:
    references = random_descriptors(SMALLEST_WITH_LISTS + 2000, 3)
    query = edited(references[::110])
    exact = large_index(view_of, references, exact=True).search(query, 1)
    lists = large_index(view_of, references, exact=False).search(query, 1)
    same = exact[1] == lists[1]
    assert (exact[1][:, 0] == np.arange(0, len(references), 110)).all()
    assert same.mean() > 0.9
    np.testing.assert_array_equal(exact[0][same], lists[0][same])
    np.testing.assert_array_equal(exact[0][:3, 0], squared(query[:3], references[exact[1][:3, 0]]).diagonal())


def test_indexes_with_lists_are_built_alike_whatever_the_threads(
    view_of: MakeView, random_descriptors: Descriptors
) -> None:
    faiss = pytest.importorskip("faiss")
    references = random_descriptors(SMALLEST_WITH_LISTS, 4)
    before = faiss.omp_get_max_threads()
    answers = []
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            answers.append(large_index(view_of, references, exact=False).search(edited(references[::200]), 4))
    finally:
        faiss.omp_set_num_threads(before)
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


def test_threads_search_an_index_on_gpus_in_turn(
    view_of: MakeView, random_descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_recall, "_count_gpus", lambda: 1)
    monkeypatch.setattr(local_recall, "_move_to_gpus", lambda index: index)
    index = build_point_index([view_of("r", keypoints(9), random_descriptors(9, 1))], exact=True, lists_searched=1)
    searching = 0
    most = 0

    class Slow:
        def search(self, queries: NDArray[np.float32], neighbours: int) -> tuple[object, object]:
            nonlocal searching, most
            searching += 1
            most = max(most, searching)
            time.sleep(0.01)
            searching -= 1
            return index.index.search(queries, neighbours)

    slow = replace(index, index=Slow())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: slow.search(random_descriptors(3, seed), 2), range(8)))
    assert most == 1
