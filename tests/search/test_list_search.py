from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.index.frame_lists import build_frame_lists, frames_of_list, read_frame_lists, write_frame_lists
from copytrace.search import list_search
from copytrace.search.list_search import search_lists
from copytrace.search.nearest_hits import NearestHits

Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search(lists: Any, queries: Floats, neighbours: int, *how: Any) -> tuple[Floats, NDArray[np.int64]]:
    hits = NearestHits(len(queries), neighbours)
    search_lists(hits, lists, queries, *how)
    return hits.sorted()


@pytest.fixture(scope="module")
def scenes() -> tuple[NDArray[np.float16], Floats]:
    """12,000 frames in scenes of 10, and 200 edited copies of some, about 0.6 alike to what they were copied from."""
    random = np.random.default_rng(11)
    scene = np.repeat(random.normal(size=(1_200, 64)), 10, axis=0)
    frames = unit(scene + random.normal(size=scene.shape) * 0.5)
    copied = frames[random.choice(len(frames), 200, replace=False)]
    return frames.astype(np.float16), unit(copied + unit(random.normal(size=copied.shape)) * 1.3)


@pytest.fixture(scope="module")
def lists(scenes: tuple[NDArray[np.float16], Floats]) -> Any:
    return build_frame_lists(scenes[0])


def compare_all(frames: NDArray[np.float16], queries: Floats, neighbours: int) -> tuple[Floats, NDArray[np.int64]]:
    cosines = queries @ frames.astype(np.float32).T
    rows = np.argsort(-cosines, axis=1)[:, :neighbours]
    return np.take_along_axis(cosines, rows, axis=1), rows


def test_nearly_all_is_found_that_comparing_with_every_frame_finds(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any
):
    frames, queries = scenes
    _, rows = search(lists, queries, 10, FrameSearchSettings().lists_searched)
    expected = compare_all(frames, queries, 10)[1]
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, expected, strict=True)]) > 0.95


def test_lists_all_looked_into_give_the_exact_cosines(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    frames, queries = scenes
    cosines, _ = search(lists, queries, 50, 1 << 20)
    np.testing.assert_allclose(cosines, compare_all(frames, queries, 50)[0], atol=1e-5)


def test_as_much_is_found_as_faiss_finds_in_the_same_lists(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    cosines, rows = search(lists, scenes[1], 30, 5)
    expected, numbers = lists.search(scenes[1], 30, params=faiss.SearchParametersIVF(nprobe=5))
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert np.mean(rows == numbers) > 0.99  # of frames that are as near, any may come first


def test_queries_and_parts_of_lists_are_searched_with_the_same_result(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any, monkeypatch: pytest.MonkeyPatch
):
    whole = search(lists, scenes[1], 10, 8, None, 7)
    for name, value in {"BLOCK_ROWS": 16, "TILE_ROWS": 3, "core_count": lambda: 3}.items():
        monkeypatch.setattr(list_search, name, value)
    parts = search(lists, scenes[1], 10, 8, None, 7)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-5)
    assert np.mean(parts[1] == whole[1]) > 0.99
    alone = np.concatenate([search(lists, query[None], 10, 8, None, 7)[1] for query in scenes[1]])
    assert np.mean(alone == whole[1]) > 0.99


def test_lists_hold_each_frame_once(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    held = [frames_of_list(lists, number) for number in range(lists.nlist)]
    rows, vectors = (np.concatenate(each) for each in zip(*held, strict=True))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(scenes[0])))
    np.testing.assert_array_equal(vectors, scenes[0][rows])


def test_what_is_not_found_is_marked(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    cosines, rows = search(lists, scenes[1], 2000, 1)
    assert (rows[:, -1] == -1).all()
    np.testing.assert_array_equal(cosines == -np.inf, rows == -1)
    assert (np.diff(np.where(rows < 0, -2, cosines), axis=1) <= 0).all()


def test_rows_that_are_no_longer_current_leave_their_places_to_others(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any
):
    frames, queries = scenes
    current = np.arange(len(frames)) % 3 > 0
    _, rows = search(lists, queries, 10, 1 << 20, current)
    expected = np.flatnonzero(current)[compare_all(frames[current], queries, 10)[1]]
    assert np.mean(np.sort(rows) == np.sort(expected)) > 0.99  # of frames that are as near, any may be found


def test_lists_that_were_stored_are_those_built_anew(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any, tmp_path: Path
):
    first, second = (tmp_path / name for name in ("first.faiss", "second.faiss"))
    stored = read_frame_lists(write_frame_lists(lists, first))
    write_frame_lists(build_frame_lists(scenes[0]), second)
    assert first.read_bytes() == second.read_bytes()
    for found, expected in zip(search(stored, scenes[1], 20, 4), search(lists, scenes[1], 20, 4), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert first.stat().st_size < len(scenes[0]) * (2 * 64 + 8) + 256 * 64 * 8  # half precision, and the centers
