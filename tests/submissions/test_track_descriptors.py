"""VSC2022's descriptor track: products of the written vectors are a run's scores; unedited queries have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.videos import VideoSettings
from copytrace.errors import InputError
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import read_npz, write_npz
from copytrace.index.media_index import Role
from copytrace.index.video_index import VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.search.video_candidates import read_video_candidates
from copytrace.submissions.track_descriptors import write_track_descriptors
from copytrace.videos import match_videos

ROUNDING = 2e-3  # of cosines with references, whose vectors have half precision
SEARCH = {
    "normalization_weight": 1.2, "normalization_neighbours": 2, "drop_least_variance": True, "aggregate": "best",
    "list_copies": False, "references_per_query": 0,
}  # fmt: skip


def vectors_of(seed: int, count: int) -> np.ndarray:
    """Unit vectors of eight numbers, of which the fourth hardly varies."""
    vectors = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    vectors[:, 3] = 0.3
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def index_of(folder: Path, name: str, role: Role, videos: dict[str, np.ndarray]) -> Path:
    ids = [video for video, vectors in videos.items() for _ in vectors]
    times = np.concatenate([[[second, second + 1.0] for second in range(len(vectors))] for vectors in videos.values()])
    write_npz(folder / f"{name}.npz", ids, times, np.concatenate(list(videos.values())))
    return import_npz(folder / f"{name}.npz", folder / name, role, model="made", typical_noise=0.1).root


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run of Q1, which copies R1, and of Q2, which was not edited; its folder and both indexes."""
    copied = vectors_of(1, 6)
    references = index_of(tmp_path, "references", "references", {"R1": copied, "R2": vectors_of(2, 5)})
    queries = index_of(
        tmp_path, "queries", "queries", {"Q1": np.repeat(copied[:4], [2, 1, 1, 1], axis=0), "Q2": copied}
    )
    noise = index_of(tmp_path, "noise", "references", {"N1": vectors_of(3, 9)})
    (tmp_path / "editing.csv").write_text("video_id,probability\nQ1,0.9\nQ2,0.0001\n")
    settings: dict[str, Any] = {
        "search": SEARCH | {"noise": str(noise), "duplicate_likeness": 0.999},
        "alignment": {"aligner": "hough", "pair_filter": "none", "verified_segments": 0},
        "report": {"max_matches": 0},
        "editing": {"detector": str(tmp_path / "editing.csv")},
    }
    match_videos(queries, references, tmp_path / "run", VideoSettings.model_validate(settings))
    return tmp_path / "run", queries, references


def test_products_are_the_scores_of_the_run_and_unedited_queries_have_none(
    run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    out, queries, references = run
    found = {(query, ref): score for query, ref, score in read_video_candidates(VideoRunFolder(out).candidates(0))}
    assert {query for query, _ in found} == {"Q1"}
    sides = []
    for root in (queries, references):
        path = tmp_path / f"{root.name}-track.npz"
        assert write_track_descriptors(VideoIndex.open(root), out, path, panes=False) > 0
        sides.append(read_npz(path))
    (asked, times, vectors), (known, _, others) = sides
    assert vectors.shape[1] == others.shape[1] == 8
    assert asked.tolist() == ["Q1"] * 4 + ["Q2"]  # the repeated frame is left out
    products = vectors @ others.T
    for reference in ("R1", "R2"):
        best = products[:4][:, known == reference].max()
        assert best == pytest.approx(found["Q1", reference], abs=ROUNDING)
    assert (np.abs(products[4] + 100) < 0.01).all()
    assert times[4].tolist() == [0.0, 1.0]


def test_a_run_with_other_queries_or_none_is_refused(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out, _, references = run
    other = index_of(tmp_path, "other", "queries", {"Q1": vectors_of(1, 2)})
    with pytest.raises(InputError, match=r"searched for .*queries, not for .*other; give the former"):
        write_track_descriptors(VideoIndex.open(other), out, tmp_path / "none.npz", panes=False)
    with pytest.raises(InputError, match=r"is no finished run of match-videos"):
        write_track_descriptors(VideoIndex.open(references), tmp_path, tmp_path / "none.npz", panes=False)
