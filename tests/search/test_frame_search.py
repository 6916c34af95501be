from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index.frame_lists import build_frame_lists
from copytrace.index.video_index import VideoIndex
from copytrace.index.video_segments import Segment
from copytrace.search import own_videos
from copytrace.search.frame_search import FrameHits
from copytrace.search.list_search import ListFrameSearch
from copytrace.search.mapped_vectors import MappedVectors, current_runs
from copytrace.search.own_videos import OthersSearch
from copytrace.search.video_copies import frame_videos

Halves = NDArray[np.float16]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=12), st.integers(0, 12), st.integers(1, 9))
def test_only_rows_of_current_media_are_found_by_their_numbers_in_all_segments(
    media: list[tuple[bool, int]], cut: int, neighbours: int
):
    parts = [media[:cut], media[cut:]]
    current = [np.array([kept for kept, _ in part], bool) for part in parts]
    starts = [np.cumsum([0, *(count for _, count in part)], dtype=np.int64) for part in parts]
    random = np.random.default_rng(len(media))
    vectors = [random.normal(size=(part[-1], 5)).astype(np.float16) for part in starts]
    searched = MappedVectors(vectors, [current_runs(*pair) for pair in zip(current, starts, strict=True)])
    every = np.concatenate(vectors).astype(np.float32)
    queries = random.normal(size=(3, 5)).astype(np.float32)
    cosines, rows = searched.nearest(queries, neighbours)
    counted = np.repeat(*zip(*media, strict=True)) if media else np.zeros(0, bool)
    expected = np.flatnonzero(counted)
    for query, found, numbers in zip(queries, cosines, rows, strict=True):
        order = expected[np.argsort(-(every[expected] @ query), kind="stable")][:neighbours]
        assert numbers.tolist() == [*order, *[-1] * (neighbours - len(order))]
        np.testing.assert_allclose(found[: len(order)], every[order] @ query, atol=1e-5)
    if len(every):
        np.testing.assert_array_equal(searched.take(np.arange(len(every))), every)


def segment_of(vectors: Halves, current: NDArray[np.bool_], *, listed: bool) -> Segment:
    ids = pa.array([str(number) for number in range(len(current))], pa.large_string())
    starts = np.arange(0, len(vectors) + 1, len(vectors) // len(current))
    return Segment(ids, starts, current, vectors, build_frame_lists(vectors) if listed else None)


@pytest.mark.parametrize("listed", [[False, False, False], [True, False, True], [True, True, True]])
def test_segments_with_and_without_lists_are_searched_as_one(listed: list[bool]):
    random = np.random.default_rng(3)
    frames = random.normal(size=(1200, 12)).astype(np.float16)
    current = random.random(60) < 0.7
    parts = [(slice(20 * n, 20 * n + 20), slice(400 * n, 400 * n + 400)) for n in range(3)]
    segments = [
        segment_of(frames[rows], current[videos], listed=there)
        for (videos, rows), there in zip(parts, listed, strict=True)
    ]
    queries = frames[:50].astype(np.float32)
    cosines, rows = ListFrameSearch(segments, lists_searched=1 << 10).nearest(queries, 8)
    runs = [current_runs(segment.current, segment.starts) for segment in segments]
    expected, numbers = MappedVectors([segment.vectors for segment in segments], runs).nearest(queries, 8)
    np.testing.assert_allclose(cosines, expected, rtol=1e-5)
    np.testing.assert_array_equal(rows, numbers)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 3), min_size=4, max_size=4), max_size=6))
def test_each_frame_and_video_among_hits_is_a_pair(rows: list[list[int]]):
    videos = np.array(rows, np.int32).reshape(-1, 4)
    frame, video, column, pair = frame_videos(videos)
    expected = sorted({(f, v) for f, found in enumerate(rows) for v in found if v >= 0})
    assert list(zip(frame.tolist(), video.tolist(), strict=True)) == expected
    assert column.tolist() == [rows[f].index(v) for f, v in expected]
    for f, found in enumerate(rows):
        assert [expected[n] if n >= 0 else None for n in pair[f]] == [(f, v) if v >= 0 else None for v in found]


def test_hits_make_room_for_more():
    hits = FrameHits(np.float32([[0.5]]), np.array([[3]]), np.int32([[1]])).widen(2)
    assert (hits.cosines.tolist(), hits.rows.tolist(), hits.videos.tolist()) == ([[0.5, -np.inf]], [[3, -1]], [[1, -1]])
    assert (hits.cosines.dtype, hits.videos.dtype) == (np.float32, np.int32)


def index_of(folder: Path, name: str, videos: list[str]) -> VideoIndex:
    """Make an index of videos that all show the same, three frames each, and then something of their own."""
    random = np.random.default_rng(len(name))
    vectors = np.concatenate([[*np.eye(8)[:3], random.normal(size=8)] for _ in videos]).astype(np.float32)
    ids = [video for video in videos for _ in range(4)]
    times = np.tile(np.stack([np.arange(4.0), np.arange(4.0) + 1], axis=1), (len(videos), 1))
    return import_npz(write_npz(folder / f"{name}.npz", ids, times, vectors), folder / name, "references", model="m")


def test_only_videos_that_are_found_are_looked_up_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    queries = index_of(tmp_path, "queries", ["q1", "q2"])
    others = index_of(tmp_path, "others", [f"r{n}" for n in range(9)])
    followed: list[str] = []

    def follow(path: str) -> str:
        followed.append(path)
        return str(queries.paths["q2"]) if path.endswith("#r2") else path

    monkeypatch.setattr(own_videos, "file_identity", follow)
    frames = queries.frames(0)
    search = OthersSearch(frames, queries, others, FrameSearchSettings())
    hits = search.nearest(slice(0, len(frames.ids)), 2)
    assert 0 < len({path for path in followed if "others" in path}) < 9
    wide = search.nearest(slice(0, len(frames.ids)), 40)
    r2 = search.videos.position_of("r2")
    assert (wide.videos[:4] == r2).any()
    assert not (wide.videos[4:] == r2).any()
    assert hits.videos.shape == (8, 2)
    assert (wide.videos[4:] >= 0).sum(axis=1).tolist() == [8 * 4] * 4
