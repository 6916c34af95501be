"""Copies among the references: what counts as one, and that they change neither scores nor what is listed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings, VideoSettings
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index.media_index import Role
from copytrace.index.video_index import VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.search import video_ranking
from copytrace.search.cut_lists import read_cut
from copytrace.search.frame_search import load_frame_search
from copytrace.search.video_candidates import read_noise_levels, search_frames
from copytrace.search.video_copies import copies_of_nearest

Floats = NDArray[np.float32]
DIMENSIONS = 32
BLACK = np.eye(DIMENSIONS, dtype=np.float32)[:1]


def footage(seed: int, seconds: int = 20) -> Floats:
    """Return a video whose frames have nothing to do with one another, a second each."""
    vectors = np.random.default_rng(seed).normal(size=(seconds, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def edited(video: Floats, strength: float = 0.1) -> Floats:
    noise = np.random.default_rng(9).normal(size=video.shape) / DIMENSIONS**0.5
    vectors = video + strength * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def index_of(root: Path, videos: Mapping[str, Floats], role: Role = "references") -> VideoIndex:
    ids = [name for name, vectors in videos.items() for _ in vectors]
    starts = np.concatenate([np.arange(len(vectors), dtype=np.float64) for vectors in videos.values()])
    root.parent.mkdir(parents=True, exist_ok=True)
    path = write_npz(
        root.with_suffix(".npz"), ids, np.stack([starts, starts + 1], axis=1), np.concatenate([*videos.values()])
    )
    return import_npz(path, root, role, model="by hand", typical_noise=0.2)


def copies_of(tmp_path: Path, query: Floats, references: Mapping[str, Floats]) -> list[set[str]]:
    """Return for each frame of a query which references are the nearest video or copies of it."""
    search = load_frame_search(index_of(tmp_path / "references", references), FrameSearchSettings())
    hits = search.nearest_of_others(query, np.zeros((len(query), 0), np.int32), 60)
    copies = copies_of_nearest(search, hits)
    return [
        {search.ids[int(video)].as_py() for video in found[copy]}
        for found, copy in zip(hits.videos, copies, strict=True)
    ]


def test_an_edited_copy_is_one_and_other_videos_are_not(tmp_path: Path):
    videos = {"a": footage(1), "b": edited(footage(1)), "other": footage(2), "third": footage(3)}
    assert copies_of(tmp_path, footage(1)[4:9], videos) == [{"a", "b"}] * 5


def test_a_short_clip_of_a_video_is_a_copy_of_it(tmp_path: Path):
    videos = {"whole": footage(1), "clip": footage(1)[7:10], "other": footage(2)}
    assert copies_of(tmp_path, footage(1)[7:10], videos) == [{"whole", "clip"}] * 3


def test_videos_that_share_black_frames_are_no_copies(tmp_path: Path):
    black = np.repeat(BLACK, 3, axis=0)
    videos = {f"v{n}": np.concatenate([black, footage(n), black]) for n in range(5)}
    assert [len(names) for names in copies_of(tmp_path, black, videos)] == [1, 1, 1]


def search(folder: Path, query: Floats, references: Mapping[str, Floats], **rules: object) -> list[dict[str, object]]:
    queries = index_of(folder / "queries", {"Q": query}, "queries")
    run = VideoRunFolder(folder / "run")
    asked = VideoSettings(search=FrameSearchSettings.model_validate(rules))
    search_frames(0, queries.root, index_of(folder / "references", references).root, run, asked)
    rows: list[dict[str, object]] = pq.read_table(run.candidates(0)).to_pylist()
    return rows


def repeated(count: int) -> dict[str, Floats]:
    """Return twelve videos; of the first one so many further copies."""
    videos = {f"v{n:02}": footage(n) for n in range(12)}
    return videos | {f"v00 copy {n:02}": edited(footage(0), 0.02) for n in range(count)}


@pytest.mark.parametrize("copies", [1, 3, 12])
def test_copies_of_a_reference_change_no_score(tmp_path: Path, copies: int):
    query = edited(footage(0)[3:11], 0.5)
    once, often = search(tmp_path / "once", query, repeated(0)), search(tmp_path / "often", query, repeated(copies))
    assert once[0]["reference_id"] == "v00"
    score = {row["reference_id"]: row["score"] for row in often}
    assert score["v00"] == pytest.approx(once[0]["score"], abs=0.01)
    assert [name for name in score if name.startswith("v00")] == list(score)[: copies + 1]
    levels = [read_noise_levels(VideoRunFolder(tmp_path / name / "run").noise(0)) for name in ("once", "often")]
    np.testing.assert_allclose(*levels, atol=1e-6)


def test_copies_that_fill_all_hits_leave_the_noise_as_it_is(tmp_path: Path):
    query = edited(footage(0)[3:11], 0.5)
    levels = []
    for name, copies in (("once", 0), ("often", 40)):
        search(tmp_path / name, query, repeated(copies), hits_per_frame=20)
        levels.append(read_noise_levels(VideoRunFolder(tmp_path / name / "run").noise(0)))
    np.testing.assert_allclose(*levels, atol=1e-6)
    assert levels[0].min() > 0.25  # it was measured, and is not the typical level


def names(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [str(row["reference_id"]) for row in rows]


def test_copies_take_no_place_among_the_references_of_a_query(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    query = np.concatenate([edited(footage(0)[3:11], 0.3), edited(footage(5)[3:11], 0.5)])
    once = names(search(tmp_path / "once", query, repeated(0), references_per_query=2))
    assert once == ["v00", "v05"]
    often = names(search(tmp_path / "often", query, repeated(12), references_per_query=2))
    assert sorted(often) == [*sorted(name for name in repeated(12) if name.startswith("v00")), "v05"]
    without = names(search(tmp_path / "without", query, repeated(12), references_per_query=2, list_copies=False))
    assert len(without) == 2
    assert not caplog.records


def test_a_list_of_copies_that_was_cut_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(video_ranking, "MOST_COPIES", 4)
    rows = search(tmp_path, edited(footage(0)[3:11], 0.5), repeated(12), references_per_query=2)
    assert len(rows) == 2 + 4
    assert read_cut(VideoRunFolder(tmp_path / "run"), [0]) == ["Q"]


def test_a_list_says_that_it_may_be_cut_only_if_no_frame_had_room_for_other_videos(tmp_path: Path):
    still = np.repeat(footage(0)[:1], 8, axis=0)
    references = {f"still {n:02}": still for n in range(12)} | {"other": footage(1)}
    for name, query, hits, cut in (
        ("full", still, 10, ["Q"]),
        ("room", still, 20, []),  # eight times as many are looked for, and there are 96 copied frames
        ("moving", np.concatenate([still, footage(1)]), 10, ["Q"]),
        ("alone", footage(1), 10, []),
    ):
        search(tmp_path / name, query, references, hits_per_frame=hits, normalization_neighbours=2)
        assert read_cut(VideoRunFolder(tmp_path / name / "run"), [0]) == cut, name
