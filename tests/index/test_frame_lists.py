from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.index.frame_lists import build_frame_lists, read_frame_lists, search_frame_lists, write_frame_lists

Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


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
    _, rows = search_frame_lists(lists, queries, 10, FrameSearchSettings().lists_searched)
    expected = compare_all(frames, queries, 10)[1]
    assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(rows, expected, strict=True)]) > 0.95


def test_lists_all_looked_into_give_the_exact_cosines(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    frames, queries = scenes
    cosines, _ = search_frame_lists(lists, queries, 50, 1 << 20)
    np.testing.assert_allclose(cosines, compare_all(frames, queries, 50)[0], atol=1e-5)


def test_what_is_not_found_is_marked(scenes: tuple[NDArray[np.float16], Floats], lists: Any):
    cosines, rows = search_frame_lists(lists, scenes[1], 2000, 1)
    assert (rows[:, -1] == -1).all()
    np.testing.assert_array_equal(cosines == -np.inf, rows == -1)
    assert (np.diff(np.where(rows < 0, -2, cosines), axis=1) <= 0).all()


def test_rows_that_are_no_longer_current_leave_their_places_to_others(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any
):
    frames, queries = scenes
    current = np.arange(len(frames)) % 3 > 0
    _, rows = search_frame_lists(lists, queries, 10, 1 << 20, current)
    expected = np.flatnonzero(current)[compare_all(frames[current], queries, 10)[1]]
    assert np.mean(np.sort(rows) == np.sort(expected)) > 0.99  # of frames that are as near, any may be found


def test_lists_that_were_stored_are_those_built_anew(
    scenes: tuple[NDArray[np.float16], Floats], lists: Any, tmp_path: Path
):
    first, second = (tmp_path / name for name in ("first.faiss", "second.faiss"))
    stored = read_frame_lists(write_frame_lists(lists, first))
    write_frame_lists(build_frame_lists(scenes[0]), second)
    assert first.read_bytes() == second.read_bytes()
    for found, expected in zip(
        search_frame_lists(stored, scenes[1], 20, 4), search_frame_lists(lists, scenes[1], 20, 4), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert first.stat().st_size < len(scenes[0]) * (2 * 64 + 8) + 256 * 64 * 8  # half precision, and the centers
