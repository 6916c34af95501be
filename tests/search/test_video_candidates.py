from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.videos import FrameSearchSettings, VideoSettings
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index import video_segments
from copytrace.index.manifest import write_manifest
from copytrace.index.media_index import Role, descriptors_path, receipt_path, write_index
from copytrace.index.plan_file import IndexPlan
from copytrace.index.shard_files import open_descriptor_writer
from copytrace.index.video_index import VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.search.frame_search import load_frame_search
from copytrace.search.list_search import ListFrameSearch
from copytrace.search.vector_search import noise_level
from copytrace.search.video_candidates import (
    QUERY_ROWS,
    read_noise_levels,
    read_video_candidates,
    search_frames,
)
from copytrace.search.video_ranking import best_per_video, distinct_frames
from copytrace.storage import write_json

Vector = Sequence[float]
Frames = Mapping[str, Sequence[Vector]]  # the vectors of each video, a second each

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
NEAR_X = (0.8, 0.6, 0.0)
HALF_X = (0.6, 0.8, 0.0)
FAR_X = (0.28, 0.96, 0.0)
ROUNDING = 1e-3  # of cosines with references, whose vectors have half precision


def settings(**changes: Any) -> FrameSearchSettings:
    plain = {
        "aggregate": "best",
        "hits_per_frame": 50,
        "normalization_neighbours": 1,
        "normalization_weight": 1.0,
        "typical_noise": 0.1,
        "robust_frames": 2,
    }
    return FrameSearchSettings.model_validate(plain | changes)


class Bench:
    """Makes indexes in a folder, and searches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run = VideoRunFolder(folder / "run")
        self.run, self.candidates, self.noise = run, run.candidates(0), run.noise(0)

    def index(self, name: str, frames: Frames, role: Role = "references", seconds: Sequence[float] = ()) -> VideoIndex:
        ids = [video for video, vectors in frames.items() for _ in vectors]
        starts = seconds or [float(second) for vectors in frames.values() for second in range(len(vectors))]
        times = np.stack([starts, np.array(starts) + 1], axis=1)
        vectors = np.concatenate([np.float32(vectors) for vectors in frames.values()])
        path = write_npz(self.folder / f"{name}.npz", ids, times, vectors)
        return import_npz(path, self.folder / name / role, role, model="by hand")

    def queries(self, frames: Frames, seconds: Sequence[float] = ()) -> VideoIndex:
        return self.index("queries", frames, "queries", seconds)

    def search(
        self, queries: VideoIndex, references: VideoIndex, asked: FrameSearchSettings, noise: VideoIndex | None = None
    ) -> list[dict[str, Any]]:
        if noise:
            asked = asked.model_copy(update={"noise": str(noise.root)})
        search_frames(0, queries.root, references.root, self.run, VideoSettings(search=asked))
        return pq.read_table(self.candidates).to_pylist()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {row["reference_id"]: pytest.approx(row["score"], abs=ROUNDING) for row in rows}


def test_a_score_is_the_cosine_less_what_another_video_reaches(bench: Bench):
    references = bench.index("references", {"copied": [X], "other": [HALF_X], "far": [Z]})
    rows = bench.search(bench.queries({"Q": [X]}), references, settings())
    assert [row["reference_id"] for row in rows] == ["copied", "other", "far"]
    assert scores(rows) == {"copied": 1 - 0.6, "other": 0.6 - 0.6, "far": 0 - 0.6}
    assert [row["cosine"] for row in rows] == pytest.approx([1.0, 0.6, 0.0], abs=ROUNDING)
    assert read_noise_levels(bench.noise) == pytest.approx([0.6], abs=ROUNDING)


def test_the_weight_scales_the_noise_level(bench: Bench):
    references = bench.index("references", {"copied": [X], "other": [HALF_X]})
    queries = bench.queries({"Q": [X]})
    assert scores(bench.search(queries, references, settings(normalization_weight=0.5)))["copied"] == 0.7
    assert scores(bench.search(queries, references, settings(normalization_weight=0)))["copied"] == 1.0


def test_only_the_best_frame_counts_or_the_mean_of_the_best_few(bench: Bench):
    references = bench.index("references", {"copied": [X, Y, Z]})
    queries = bench.queries({"Q": [X, Y, NEAR_X, Z], "short": [X]})
    best = bench.search(queries, references, settings(normalization_weight=0))
    robust = bench.search(queries, references, settings(normalization_weight=0, aggregate="robust", robust_frames=4))
    assert {row["query_id"]: round(row["score"], 5) for row in best} == {"Q": 1.0, "short": 1.0}
    assert {row["query_id"]: round(row["score"], 5) for row in robust} == {"Q": 3.8 / 4, "short": 1 / 4}


def test_frames_less_alike_than_noise_do_not_lower_a_robust_score(bench: Bench):
    references = bench.index("references", {"copied": [X]})
    queries = bench.queries({"Q": [X, Z]})
    rows = bench.search(queries, references, settings(aggregate="robust", typical_noise=0.2))
    assert scores(rows) == {"copied": (1 - 0.2) / 2}


def test_panes_of_one_moment_count_once_and_the_best_is_named(bench: Bench):
    references = bench.index("references", {"copied": [X]})
    queries = bench.queries({"Q": [Z, NEAR_X, X]}, seconds=[0.0, 3.0, 3.0])
    rows = bench.search(queries, references, settings(aggregate="robust", normalization_weight=0))
    assert scores(rows) == {"copied": (1.0 + 0.0) / 2}
    assert (rows[0]["pane"], rows[0]["query_second"]) == ("pane0", 3.0)


def test_the_typical_level_stands_in_for_noise_that_there_is_not(bench: Bench):
    queries = bench.queries({"Q": [X]})
    alone = bench.index("alone", {"copied": [X, HALF_X]})
    assert scores(bench.search(queries, alone, settings(typical_noise=0.3))) == {"copied": 0.7}
    two = bench.index("two", {"copied": [X], "other": [HALF_X]})
    asked = settings(typical_noise=0.3, normalization_neighbours=3)
    assert scores(bench.search(queries, two, asked))["copied"] == 1 - (0.6 + 0.3 + 0.3) / 3


@pytest.mark.parametrize(("of_model", "expected"), [(None, 0.3), (0.0, 0.0), (0.47, 0.47)])
def test_the_typical_level_is_by_default_what_the_model_says_or_else_a_guess(
    bench: Bench, of_model: float | None, expected: float
):
    queries = bench.queries({"Q": [X]})
    write_json(queries.root / "index.json", queries.provenance | {"typical_noise": of_model})
    bench.search(queries, bench.index("references", {"copied": [X]}), settings(typical_noise=None))
    assert read_noise_levels(bench.noise) == pytest.approx([expected])


def test_noise_of_its_own_takes_the_place_of_the_references(bench: Bench):
    references = bench.index("references", {"copied": [X], "other": [NEAR_X]})
    noise = bench.index("noise", {"N1": [FAR_X, Z], "N2": [HALF_X]})
    asked = settings(normalization_neighbours=2)
    rows = bench.search(bench.queries({"Q": [X]}), references, asked, noise)
    assert scores(rows) == {"copied": 1 - (0.6 + 0.28) / 2, "other": 0.8 - (0.6 + 0.28) / 2}


def test_a_video_is_neither_its_own_candidate_nor_noise_for_itself(bench: Bench):
    videos = {"V1": [X, X, X], "V2": [NEAR_X], "V3": [FAR_X]}
    queries, references = bench.index("same", videos, "queries"), bench.index("same", videos)
    rows = [row for row in bench.search(queries, references, settings()) if row["query_id"] == "V1"]
    assert scores(rows) == {"V2": 0.8 - 0.28, "V3": 0.28 - 0.28}
    noise = bench.index("noise", {f"noise {name}": vectors for name, vectors in videos.items()})
    same_files = {f"noise {name}": (item, shard) for name, (item, shard) in references.items.items()}
    renamed = {name: (replace(item, id=name), shard) for name, (item, shard) in same_files.items()}
    write_manifest(noise.root, renamed, noise.items.states)
    rows = bench.search(queries, references, settings(), noise)
    assert scores([row for row in rows if row["query_id"] == "V1"]) == {"V2": 0.8 - 0.8, "V3": 0.28 - 0.8}


def test_a_videos_own_frames_do_not_crowd_out_the_others(bench: Bench):
    videos = {"V1": [X] * 30, "V2": [NEAR_X], "V3": [FAR_X]}
    queries, references = bench.index("same", videos, "queries"), bench.index("same", videos)
    rows = bench.search(queries, references, settings(hits_per_frame=1, normalization_weight=0))
    assert scores([row for row in rows if row["query_id"] == "V1"]) == {"V2": 0.8}


def test_each_query_keeps_its_best_references_ties_by_id(bench: Bench):
    references = bench.index("references", {"r1": [HALF_X], "r2": [X], "r3": [X], "r4": [NEAR_X]})
    queries = bench.queries({"Q2": [X], "Q1": [HALF_X]})
    bench.search(queries, references, settings(references_per_query=3, normalization_weight=0, list_copies=False))
    pairs = [(query, reference) for query, reference, _ in read_video_candidates(bench.candidates)]
    assert pairs == [*(("Q1", name) for name in ("r1", "r4", "r2")), *(("Q2", name) for name in ("r2", "r3", "r4"))]


def test_range_search_finds_all_references_above_a_score_however_few_hits_are_kept(bench: Bench):
    frames = {"copied": [X, NEAR_X], "near": [Z, NEAR_X], "far": [FAR_X], "other": [Z], "half": [HALF_X]}
    references, queries = bench.index("references", frames), bench.queries({"Q": [X], "R": [Y]})
    plain = {"normalization_weight": 0, "list_copies": False, "references_per_query": 0}
    expected = {("Q", "copied"): 1.0, ("Q", "near"): 0.8, ("Q", "half"): 0.6, ("R", "far"): 0.96, ("R", "half"): 0.8}
    expected |= {("R", "copied"): 0.6, ("R", "near"): 0.6}
    for hits in (1, 50):
        rows = bench.search(queries, references, settings(**plain, hits_per_frame=hits, min_score=0.5))
        found = {(row["query_id"], row["reference_id"]): round(row["score"], 2) for row in rows}
        assert found == expected
    assert len(bench.search(queries, references, settings(**plain, hits_per_frame=1))) == 2  # the nearest of each


def test_frames_that_repeat_others_of_their_video_are_not_searched(bench: Bench):
    frames = np.float32([X, NEAR_X, HALF_X, Z])  # the second one is the most like the others
    for likeness, expected in [(1.0, [0, 1, 2, 3]), (0.97, [0, 1, 2, 3]), (0.7, [1, 3])]:
        assert np.flatnonzero(distinct_frames(frames, likeness)).tolist() == expected
    references = bench.index("references", {"a": [X], "b": [Z]})
    queries = bench.queries({"Q": [X, NEAR_X, HALF_X, Z], "R": [X, Z]})
    asked = settings(normalization_weight=0, duplicate_likeness=0.7)
    rows = bench.search(queries, references, asked)
    best = {(row["query_id"], row["reference_id"]): row["query_second"] for row in rows if row["score"] > 0.1}
    assert best == {("Q", "a"): 1.0, ("Q", "b"): 3.0, ("R", "a"): 0.0, ("R", "b"): 1.0}


def test_range_search_leaves_out_the_query_itself(bench: Bench):
    both = {"Q": [X], "copied": [NEAR_X], "other": [X]}
    queries, references = bench.index("same", both, "queries"), bench.index("same", both)
    asked = settings(normalization_weight=0, hits_per_frame=1, min_score=0.5, list_copies=False)
    pairs = {(row["query_id"], row["reference_id"]) for row in bench.search(queries, references, asked)}
    assert pairs == {(a, b) for a in both for b in both if a != b}


def test_the_number_that_varies_least_among_the_noise_is_left_out_of_all_vectors(bench: Bench):
    references = bench.index("references", {"copied": [HALF_X], "other": [Z]})
    noise = bench.index("noise", {"N": [(0.96, 0.28, 0.0)], "M": [(0.0, 0.28, 0.96)]})
    asked = settings(normalization_weight=1.0, drop_least_variance=True)
    rows = bench.search(bench.queries({"Q": [NEAR_X]}), references, asked, noise)
    # Without the second number, Q, the copied frame and N are all the same direction.
    assert [row["cosine"] for row in rows] == pytest.approx([1.0, 0.0], abs=ROUNDING)
    assert scores(rows) == {"copied": 0.0, "other": -1.0}


def test_what_only_an_exact_search_can_do_is_refused_of_inverted_lists():
    for change in ({"min_score": -0.1}, {"drop_least_variance": True}):
        with pytest.raises(ValueError, match=r"need search\.index=exact"):
            settings(index="approximate", **change)


def test_without_references_there_are_no_candidates_and_noise_is_typical(bench: Bench):
    queries = bench.queries({"Q": [X, Y]})
    write_index(IndexPlan(bench.folder / "none", queries.provenance | {"role": "references"}, {}, ()))
    assert bench.search(queries, VideoIndex.open(bench.folder / "none"), settings(typical_noise=0.25)) == []
    assert read_noise_levels(bench.noise).tolist() == [0.25, 0.25]


def test_a_query_without_frames_has_no_candidates(bench: Bench):
    queries = bench.queries({"Q": [X]})
    with open_descriptor_writer(descriptors_path(queries.root, 0), 3):
        receipt_path(queries.root, 0).unlink()  # it has the checksums of the former content
    assert bench.search(queries, bench.index("references", {"copied": [X]}), settings()) == []
    assert read_video_candidates(bench.candidates) == []
    assert read_noise_levels(bench.noise).shape == (0,)


def test_queries_searched_in_several_parts_have_the_candidates_of_each_alone(bench: Bench):
    references = bench.index("references", {"copied": [X, Y, Z], "other": [HALF_X]})
    random = np.random.default_rng(2)
    videos = {f"Q{n}": random.normal(size=(QUERY_ROWS * 2 // 3, 3)).tolist() for n in range(4)}
    asked = settings(aggregate="robust", robust_frames=50)
    together = bench.search(bench.queries(videos), references, asked)
    levels = read_noise_levels(bench.noise)
    assert len(levels) == 4 * (QUERY_ROWS * 2 // 3)
    alone = bench.search(bench.index("last", {"Q3": videos["Q3"]}, "queries"), references, asked)
    rows = [row for row in together if row["query_id"] == "Q3"]
    assert [row["reference_id"] for row in rows] == [row["reference_id"] for row in alone]
    for row, other in zip(rows, alone, strict=True):
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert row["cosine"] == pytest.approx(other["cosine"], abs=1e-5)
        assert row["query_second"] == other["query_second"]
    # Products of matrices of other heights are rounded otherwise.
    np.testing.assert_allclose(levels[-len(videos["Q3"]) :], read_noise_levels(bench.noise), atol=1e-6)


def test_a_search_that_is_done_is_not_repeated_unless_one_of_its_files_is_gone(bench: Bench):
    queries, references = bench.queries({"Q": [X]}), bench.index("references", {"R": [X]})
    bench.search(queries, references, settings())
    before = bench.candidates.stat().st_mtime_ns
    bench.search(queries, references, settings())
    assert bench.candidates.stat().st_mtime_ns == before
    bench.noise.unlink()
    bench.search(queries, references, settings())
    assert bench.noise.exists()


def test_inverted_lists_of_the_index_are_searched(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(video_segments, "SMALLEST_WITH_LISTS", 400)
    random = np.random.default_rng(4)
    videos = {f"R{n:02}": random.normal(size=(30, 16)).tolist() for n in range(20)}
    references, asked = bench.index("references", videos), settings(index="approximate")
    assert isinstance(load_frame_search(references, asked).search, ListFrameSearch)
    rows = bench.search(bench.queries({"Q": videos["R07"][20:23]}), references, asked)
    assert (rows[0]["reference_id"], round(rows[0]["cosine"], 2)) == ("R07", 1.0)


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ([0.5, 0.3, 0.2], (0.5 + 0.3) / 2),
        ([0.5, -np.inf, -np.inf], (0.5 + 0.1) / 2),
        ([-np.inf] * 3, 0.1),
        ([0.5], (0.5 + 0.1) / 2),
    ],
)
def test_a_noise_level_is_the_mean_of_the_greatest_or_typical_where_there_are_none(
    cosines: list[float], expected: float
):
    level = noise_level(np.float32([cosines]), 2, typical=0.1)
    assert level.dtype == np.float32
    assert level == pytest.approx([expected])


def test_the_best_hit_of_each_frame_in_each_video_is_kept():
    hits = best_per_video(
        np.float32([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, -np.inf, -np.inf]]),
        np.array([[4, 2, 4, 2], [2, 4, -1, -1]], np.int32),
        np.array([[True, False, True, False], [True, True, False, False]]),
    )
    rows = [(int(frame), int(video), round(float(score), 1), bool(copy)) for frame, video, score, copy in hits]
    assert rows == [(0, 2, 0.8, False), (0, 4, 0.9, True), (1, 2, 0.5, True), (1, 4, 0.4, True)]
