"""The descriptor tracks' rules: how frames become pairs of videos, which pairs count, and files that are evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from copytrace.cli import app
from copytrace.errors import InputError
from copytrace.exchange.npz_files import write_npz
from copytrace.metrics import descriptor_evaluation
from copytrace.metrics.descriptor_evaluation import evaluate_candidates, evaluate_video_descriptors, pair_videos

TRUTH = "query_id,ref_id,query_start,query_end,ref_start,ref_end\nQ1,R1,0,1,0,1\nQ1,R1,5,6,5,6\nQ2,R2,0,1,0,1\n"


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.csv"
    path.write_text(TRUTH)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two queries of two frames each, and two references; Q1 and R1 share a frame, Q2 and R2 less so."""
    queries = np.float32([[1, 0, 0], [0, 0, 0.1], [0, 0.8, 0], [0, 0, 0.2]])
    references = np.float32([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0.9, 0, 0]])
    return (
        write_npz(tmp_path / "q.npz", ["Q1", "Q1", "Q2", "Q2"], np.arange(4), queries),
        write_npz(tmp_path / "r.npz", ["R1", "R1", "R2", "R3"], np.arange(4), references),
    )


def test_a_pair_of_videos_has_the_score_of_its_best_frames(truth: Path, files: tuple[Path, Path]) -> None:
    evaluation, pairs = evaluate_video_descriptors(truth, *files)
    listed = list(zip(pairs.queries, pairs.references, pairs.scores.astype(float).round(2).tolist(), strict=True))
    assert listed[:4] == [("Q1", "R1", 1.0), ("Q1", "R3", 0.9), ("Q2", "R2", 0.8), ("Q2", "R1", 0.2)]
    assert evaluation.micro_ap == pytest.approx((1 + 2 / 3) / 2)
    assert (evaluation.true_pairs, evaluation.judged_pairs) == (2, 6)


def test_only_the_best_frames_and_then_the_best_pairs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, vectors = np.array(["Q1", "Q1"]), np.float32([[1.0], [0.9]])
    references, known = np.array(["R1", "R2", "R3"]), np.float32([[3.0], [2.9], [0.1]])
    monkeypatch.setattr(descriptor_evaluation, "FRAMES_PER_QUERY", 3)
    assert pair_videos(ids, vectors, references, known).references.tolist() == ["R1", "R2"]  # 3, 2.9, 2.7
    monkeypatch.setattr(descriptor_evaluation, "PAIRS_PER_QUERY", 1)
    assert pair_videos(ids, vectors, references, known).references.tolist() == ["R1"]


def test_pairs_of_equal_scores_are_accepted_together(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("query_id,ref_id,score\nQ1,R9,0.5\nQ1,R1,0.5\n")
    assert evaluate_candidates(truth, tmp_path / "c.csv").micro_ap == pytest.approx(0.5 * 0.5)


@pytest.mark.parametrize(
    ("rows", "told"),
    [("Q1,R1,1\nQ1,R1,2", "row 2 has the pair Q1, R1 again"), ("Q1,R1,1\nQ1,R2,inf", "row 2 has the score inf")],
)
def test_unusable_candidates_are_refused_with_the_row(rows: str, told: str, truth: Path, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f"query_id,ref_id,score\n{rows}\n")
    with pytest.raises(InputError, match=told):
        evaluate_candidates(truth, tmp_path / "c.csv")


def test_the_judged_pairs_are_written_as_candidates_that_give_the_same_figures(
    truth: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    written = tmp_path / "candidates.csv"
    figures = json.loads(evaluate("descriptors", truth, *files, "--pairs", written, "--json").stdout)
    assert json.loads(evaluate("candidates", truth, written, "--json").stdout)["micro_ap"] == figures["micro_ap"]
    assert "micro-AP" in evaluate("candidates", truth, written).stdout


def test_a_file_of_one_side_is_not_enough(truth: Path, files: tuple[Path, Path]) -> None:
    result = evaluate("descriptors", truth, files[0])
    assert (result.exit_code, "give the .npz file of references, too" in result.stderr) == (1, True)


def test_descriptors_of_images_are_searched_by_distance_for_the_queries_of_the_ground_truth(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["query"] = np.float32([[0, 0], [0, 5], [9, 9]])
        file["reference"] = np.float32([[0, 1], [0, 5], [9, 9]])
        file["query_ids"] = np.array([b"Q00000", b"Q00001", b"Q00002"])
        file["reference_ids"] = np.array([b"R000000", b"R000001", b"R000002"])
    (tmp_path / "truth.csv").write_text("query_id,reference_id\nQ00000,R000000\nQ00001,\n")
    written = tmp_path / "m.csv"
    result = evaluate("descriptors", tmp_path / "truth.csv", tmp_path / "d.h5", "--pairs", written, "--json")
    assert json.loads(result.stdout)["overall"]["micro_ap"] == 0.5
    rows = written.read_text().splitlines()
    assert rows[:3] == ["query_id,reference_id,score", "Q00001,R000001,0", "Q00000,R000000,-1"]
    assert len(rows) == 7
