"""Searches of points: exact ones, and those in inverted lists."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.features.variants import PLAIN, VARIANTS, Variant
from copytrace.index import point_quantizer
from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import CodedPoints, PointLists, read_lists
from copytrace.index.point_quantizer import ListLevel, NearestLists, shipped_quantizer
from copytrace.index.shard_files import View
from copytrace.search import point_search
from copytrace.search.point_search import ExactSearch, FoundPoints, ListSearch, PointSearch, fill_indexes

Bytes = NDArray[np.uint8]
MakeView = Callable[..., View]
Descriptors = Callable[[int, int], Bytes]


def squared(first: Bytes, second: Bytes) -> NDArray[np.int64]:
    differences = first[:, None].astype(np.int64) - second[None].astype(np.int64)
    return np.asarray((differences**2).sum(axis=2))


def keypoints(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).uniform(1, 90, (count, 4)).astype(np.float32)


def list_search(*segments: list[View]) -> ListSearch:
    return ListSearch.of([segment_of(views) for views in segments], shipped_quantizer(), lists_searched=16)


def exact_search(views: list[View]) -> ExactSearch:
    return ExactSearch.of(views, shipped_quantizer())


def segment_of(views: list[View], level: ListLevel | None = None) -> Segment:
    points = CodedPoints(level or shipped_quantizer().coarse, sum(len(view.points) for view in views))
    points.add_views(shipped_quantizer().canonical_form, views)
    with TemporaryDirectory() as folder:  # what is mapped stays when its name is gone
        lists = read_lists(points.write(Path(folder) / "some.points"), shipped_quantizer())
    sides = np.array([(view.points.width, view.points.height) for view in views], np.float32).reshape(-1, 2)
    ids = pa.array([view.id for view in views], pa.large_string())
    return Segment(ids, np.zeros((len(views), 2), np.float16), PointLists(lists, sides, np.ones(len(views), bool)))


def nearest_rows(found: FoundPoints, queries: int) -> NDArray[np.int64]:
    """Return the row of the nearest point of each of Q query points, int64 [Q]."""
    order = np.lexsort((found.distance[:, 0], found.query))
    rows: NDArray[np.int64] = order[np.searchsorted(found.query[order], np.arange(queries))]
    return rows


def edited(descriptors: Bytes) -> Bytes:
    """Return descriptors as far from these as those of a copied photo are: about 2,000, squared."""
    noise = np.random.default_rng(5).normal(0, 4, descriptors.shape)
    return np.clip(np.rint(descriptors + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photo_points() -> Bytes:
    """Return 4,000 points as those of photographs are: around the lists that ship, uint8 [4000, 128]."""
    lists = shipped_quantizer().codebook.fine_lists
    centers = lists[np.random.default_rng(0).integers(0, len(lists), 4000)]
    return np.clip(centers + np.random.default_rng(1).normal(0, 8, centers.shape), 0, 255).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 1000))
def test_an_exact_search_answers_like_brute_force(
    view_of: MakeView, random_descriptors: Descriptors, counts: list[int], neighbours: int, seed: int
) -> None:
    views = [view_of(f"r{n}", keypoints(count), random_descriptors(count, seed + n)) for n, count in enumerate(counts)]
    query = random_descriptors(3, seed + 99)
    found = exact_search(views).search(query, neighbours, [PLAIN])
    expected = np.sort(squared(query, np.concatenate([view.points.descriptor for view in views])), axis=1)
    there = min(neighbours, sum(counts))
    np.testing.assert_array_equal(found.distance[:, :there], expected[:, :there])
    assert (found.image[:, :there] >= 0).all()
    assert (found.image[:, there:] == -1).all()
    assert np.isinf(found.distance[:, there:]).all()


@pytest.mark.parametrize("exact", [True, False])
def test_points_know_their_reference_and_where_they_are(
    view_of: MakeView, random_descriptors: Descriptors, exact: bool
) -> None:
    views = [
        view_of("a", [[50, 25, 4, 1]], random_descriptors(1, 0)),
        view_of("none", [], random_descriptors(0, 1)),
        view_of("b", [[10, 20, 2, 0], [30, 40, 2, 6.2]], random_descriptors(2, 2)),
    ]
    search: PointSearch = exact_search(views) if exact else list_search(views)
    assert search.ids.to_pylist() == ["a", "none", "b"]
    np.testing.assert_allclose(search.center, 0.5)
    for view, number in ((views[0], 0), (views[2], 2)):
        found = search.search(view.points.descriptor, 1)
        best = nearest_rows(found, len(view.points))
        assert (found.image[best, 0] == number).all()
        assert (found.variant[best, 0] == PLAIN.number).all()
        expected, geometry = view.points.relative_geometry(), found.geometry[best, 0]
        np.testing.assert_allclose(geometry[:, :2], expected[:, :2], atol=1e-3)
        np.testing.assert_allclose(geometry[:, 2], expected[:, 2], rtol=0.03)
        np.testing.assert_allclose(geometry[:, 3], expected[:, 3], atol=0.01)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("edit", VARIANTS)
def test_one_search_finds_points_of_mirror_images_and_negatives_and_tells_which(
    view_of: MakeView, photo_points: Bytes, exact: bool, edit: Variant
) -> None:
    views = [view_of(f"r{n}", keypoints(100), photo_points[100 * n : 100 * n + 100]) for n in range(3)]
    search: PointSearch = exact_search(views) if exact else list_search(views)
    _, query = edit.read(keypoints(100), edited(views[1].points.descriptor))
    found = search.search(query, 4)
    best = nearest_rows(found, 100)
    assert (found.image[best, 0] == 1).mean() > 0.9
    assert (found.variant[best, 0] == edit.number).mean() > 0.9
    others = [variant for variant in VARIANTS if variant != edit]
    without = search.search(query, 4, others)
    assert not (without.image[without.variant == edit.number] >= 0).any()


@pytest.mark.parametrize("exact", [True, False])
def test_the_place_in_a_wide_reference_is_told_in_short_sides(
    points_of: Callable[..., object], random_descriptors: Descriptors, exact: bool
) -> None:
    wide = View("wide", "whole", points_of([[290, 50, 2, 0]], random_descriptors(1, 0), width=300, height=100))
    search: PointSearch = exact_search([wide]) if exact else list_search([wide])
    assert search.center.tolist() == [[1.5, 0.5]]
    found = search.search(random_descriptors(1, 0), 1)
    np.testing.assert_allclose(found.geometry[nearest_rows(found, 1)[0], 0, :2], [2.9, 0.5], atol=2e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_where_there_are_no_points_none_are_found(
    view_of: MakeView, random_descriptors: Descriptors, exact: bool
) -> None:
    for views in ([], [view_of("none", [], random_descriptors(0, 0))]):
        search: PointSearch = exact_search(views) if exact else list_search(views)
        found = search.search(random_descriptors(2, 1), 3)
        assert np.isinf(found.distance).all()
        assert (found.image == -1).all()
        assert set(found.query.tolist()) == {0, 1}


def test_lists_find_nearly_all_that_looking_at_every_point_finds(view_of: MakeView, photo_points: Bytes) -> None:
    views = [view_of(f"r{n}", keypoints(400), part) for n, part in enumerate(np.array_split(photo_points, 10))]
    query = edited(photo_points[::40])
    found = [search.search(query, 1) for search in (exact_search(views), list_search(views))]
    exact, listed = (each.image[nearest_rows(each, 100), 0] for each in found)
    assert (exact == np.arange(100) // 10).all()
    assert (listed == exact).mean() > 0.9


def test_neither_segments_nor_threads_change_what_is_found(view_of: MakeView, photo_points: Bytes) -> None:
    faiss = pytest.importorskip("faiss")
    views = [view_of(f"r{n}", keypoints(400), part) for n, part in enumerate(np.array_split(photo_points, 10))]
    query = edited(photo_points[::20])
    before = faiss.omp_get_max_threads()
    answers = []
    try:
        for threads, cut in ((1, 10), (2, 10), (1, 3), (2, 7)):
            faiss.omp_set_num_threads(threads)
            answers.append(list_search(views[:cut], views[cut:]).search(query, 4))
    finally:
        faiss.omp_set_num_threads(before)
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.distance, answers[0].distance)
        np.testing.assert_array_equal(answer.chance, answers[0].chance)
        for row in range(len(answer.distance)):  # of points that are as far away, any may come first
            for distance in np.unique(answer.distance[row, :-1]):
                here = [set(each.image[row][each.distance[row] == distance]) for each in (answer, answers[0])]
                assert here[0] == here[1] or distance == answer.distance[row, -1]


def test_copies_of_a_reference_change_neither_its_distance_nor_that_of_chance(
    view_of: MakeView, photo_points: Bytes
) -> None:
    views = [view_of(f"r{n}", keypoints(400), part) for n, part in enumerate(np.array_split(photo_points, 10))]
    copies = [replace(views[0], id=f"copy{n}") for n in range(30)]
    query = edited(views[0].points.descriptor[:50])
    once, often = list_search(views).search(query, 40), list_search(views, copies).search(query, 40)
    np.testing.assert_array_equal(once.chance, often.chance)
    np.testing.assert_array_equal(once.distance[:, 0], often.distance[:, 0])
    for row in nearest_rows(often, len(query)):  # all copies are as near
        nearest = often.image[row][often.distance[row] == often.distance[row, 0]]
        assert set(range(10, 40)) | {0} <= set(nearest.tolist()) or once.image[row, 0] != 0


def test_points_nearer_than_chance_are_told_from_unrelated_ones(view_of: MakeView, photo_points: Bytes) -> None:
    halves = photo_points[::2], photo_points[1::2]
    search = list_search([view_of("r", keypoints(len(halves[0])), halves[0])])
    copied, unrelated = search.search(edited(halves[0]), 1), search.search(halves[1], 1)
    best = nearest_rows(copied, len(halves[0]))
    assert (copied.distance[best, 0] < copied.chance[best]).mean() > 0.9
    assert (unrelated.distance[:, 0] < unrelated.chance).mean() < 0.5


def test_threads_search_an_index_on_gpus_in_turn(
    view_of: MakeView, random_descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_search, "_gpu_indexes", lambda _: [faiss.IndexFlatL2(128)])
    search = exact_search([view_of("r", keypoints(9), random_descriptors(9, 1))])
    searching = 0
    most = 0

    class Slow:
        def search(self, queries: NDArray[np.float32], neighbours: int) -> tuple[object, object]:
            nonlocal searching, most
            searching += 1
            most = max(most, searching)
            time.sleep(0.01)
            searching -= 1
            return search.index.search(queries, neighbours)

    slow = replace(search, index=Slow())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: slow.search(random_descriptors(3, seed), 2), range(8)))
    assert most == 1


def test_of_fine_lists_a_form_that_a_point_is_less_likely_to_have_is_looked_for_in_half_of_them(
    photo_points: Bytes, view_of: MakeView
) -> None:
    quantizer = shipped_quantizer()
    segment = segment_of([view_of("a", keypoints(4000), photo_points)], quantizer.fine)
    search = ListSearch.of([segment], quantizer, lists_searched=16)
    query = edited(photo_points[:60])
    found = search.search(query, 4)
    assert 60 < len(found.query) < 240
    forms = quantizer.canonical_form.all_likely(query)[1].astype(np.float32)
    distance, lists = quantizer.nearest_lists(forms, 16, {quantizer.fine.count: 1})[quantizer.fine.count]
    assert lists.shape == (len(forms), 32)
    for rows, few in ((slice(0, 60), 32), (slice(60, None), 16)):
        nearest = np.ascontiguousarray(distance[rows, :few]), np.ascontiguousarray(lists[rows, :few])
        expected = segment.points.search(forms[rows], nearest, 4, 0)
        np.testing.assert_array_equal(found.distance[rows], expected.distance)
        np.testing.assert_array_equal(found.geometry[rows], expected.geometry)


def test_the_more_points_an_index_has_the_fewer_of_its_lists_are_searched(
    photo_points: Bytes, view_of: MakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer = shipped_quantizer()
    segments = [segment_of([view_of(name, keypoints(2000), photo_points[:2000])], quantizer.fine) for name in "ab"]
    asked = []
    nearest = point_quantizer.ListLevel.nearest_lists

    def note(level: ListLevel, points: Floats, count: int, parents: NearestLists | None = None) -> NearestLists:
        asked.append((level.count, count))
        return nearest(level, points, count, parents)

    monkeypatch.setattr(point_quantizer.ListLevel, "nearest_lists", note)
    search = ListSearch.of(segments, quantizer, lists_searched=16)
    # The points of all segments count: 4,000.
    for few, searched in ((4000, 32), (3999, 16), (2000, 16), (1999, 8), (1, 8)):
        monkeypatch.setattr(point_quantizer, "FEW_POINTS", few)
        search.search(photo_points[:10], 4)
        assert asked[-1] == (quantizer.fine.count, searched)
        assert asked[-2] == (quantizer.coarse.count, 16)


@pytest.mark.parametrize("counts", [[3, 0, 5, 4, 1], [7], [0, 0], []])
def test_points_divided_among_devices_keep_their_numbers(counts: list[int], random_descriptors: Descriptors) -> None:
    parts = [random_descriptors(count, seed) for seed, count in enumerate(counts)]
    points = np.concatenate([np.zeros((0, 128), np.uint8), *parts]).astype(np.float32)
    for devices in (1, 3):
        index = fill_indexes([faiss.IndexFlatL2(128) for _ in range(devices)], parts)
        assert index.search(points, 1)[1].ravel().tolist() == list(range(len(points)))


@pytest.mark.parametrize("half_precision", [True, False], ids=["float16", "float32"])
def test_an_exact_search_finds_copied_points_in_either_precision_which_matters_on_gpus_alone(
    half_precision: bool, view_of: MakeView, photo_points: Bytes
) -> None:
    points = photo_points
    views = [view_of(f"r{n}", keypoints(100), points[100 * n :][:100]) for n in range(20)]
    query = edited(points[:2000:40])
    found = ExactSearch.of(views, shipped_quantizer(), half_precision=half_precision).search(query, 1, [PLAIN])
    exact = squared(query, points[:2000])
    # Half precision rounds the squared length of either descriptor by less than a thousandth.
    lengths = (query.astype(np.float32) ** 2).sum(axis=1).max() + (points.astype(np.float32) ** 2).sum(axis=1).max()
    rounded = lengths / 1000 if half_precision and faiss.get_num_gpus() else 0
    np.testing.assert_allclose(found.distance[:, 0], exact.min(axis=1), rtol=0, atol=rounded)
    np.testing.assert_array_equal(found.image[:, 0], np.arange(0, 2000, 40) // 100)
