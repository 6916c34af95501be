"""Reading of true and predicted segments, and the figures of videos as JSON and as tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from copytrace.errors import InputError
from copytrace.metrics.video_evaluation import (
    evaluate_videos,
    read_kinds,
    read_predicted_segments,
    read_true_segments,
)

HEADER = "query_id,ref_id,query_start,query_end,ref_start,ref_end"
TRUTH = f"{HEADER}\nQ1,R1,0,10,5,15\nQ2,R2,2.5,12.5,0,10\n"
SEGMENTS = f"{HEADER},score\nQ1,R1,0,10,5,15,0.9\nQ2,R2,2.5,7.5,0,5,0.5\nQ9,R2,0,5,0,5,0.2\n"
DATA = Path(__file__).parents[3] / "shared" / "data"
VSC22_TRUTH = DATA / "fixtures" / "vsc22" / "train_matching_ground_truth.csv"


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8", newline="")
        return path

    return write_file


def lines_of(evaluation) -> list[list[str]]:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(evaluation.render())
    return [line.replace("│", " ").split() for line in capture.get().splitlines()]


def judged(sure: int, mistaken: int, error: float | None) -> dict[str, object]:
    return {
        "sure": sure,
        "mistaken": mistaken,
        "calibration_error": None if error is None else pytest.approx(error),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("s.csv", f"{HEADER},score\n007,R1,1,2,3,4.5,0.5\n", id="header"),
        pytest.param("s.csv", "007,R1,1,2,3,4.5,0.5\n", id="no header"),
        pytest.param(
            "s.csv",
            "score,pane,ref_end,reference_id,query_end,query_start,ref_start,query_id\n0.5,pane0,4.5,R1,2,1,3,007\n",
            id="shuffled, other columns, reference_id",
        ),
        pytest.param(
            "s.csv",
            "query_id,reference_id,query_start,query_end,reference_start,reference_end,score\n007,R1,1,2,3,4.5,5e-1\n",
            id="reference_ in place of ref_",
        ),
        pytest.param(
            "s.csv", f"{HEADER},reference_id,score\n007,R1,1,2,3,4.5,other,0.5\n", id="ref_id beats reference_id"
        ),
        pytest.param("s.tsv", f"{HEADER},score\n007,R1,1,2,3,4.5,0.5\n".replace(",", "\t"), id="tabs"),
        pytest.param("s.csv", f"\ufeff{HEADER},score\r\n007, R1,1,2,3,4.5,0.5\r\n\r\n", id="Windows"),
    ],
)
def test_segments_are_read_from_text_with_ids_as_written(write, name, text):
    segments = read_predicted_segments(write(name, text))
    assert (list(segments.queries), list(segments.references)) == (["007"], ["R1"])
    assert (segments.times.tolist(), segments.scores.tolist()) == ([[1.0, 2.0, 3.0, 4.5]], [0.5])


@pytest.mark.parametrize("reference", ["ref_id", "reference_id"])
def test_segments_are_read_from_parquet_with_integer_ids_as_text(tmp_path, reference):
    times = {name: pa.array([value], pa.float32()) for name, value in zip(HEADER.split(",")[2:], range(4), strict=True)}
    table = pa.table({"score": [1], "reversed": [True], reference: [100032], **times, "query_id": [7]})
    pq.write_table(table, tmp_path / "segments.parquet")
    segments = read_predicted_segments(tmp_path / "segments.parquet")
    assert (list(segments.queries), list(segments.references)) == (["7"], ["100032"])
    assert (segments.times.tolist(), segments.scores.tolist()) == ([[0.0, 1.0, 2.0, 3.0]], [1.0])


def test_an_evaluation_becomes_plain_json(write):
    evaluation = evaluate_videos(write("truth.csv", TRUTH), write("segments.csv", SEGMENTS))
    value = json.loads(json.dumps(evaluation.to_json()))
    assert value["segments"].endswith("segments.csv")
    assert (value["queries"], value["of_other_queries"], value["by_kind"]) == (2, 1, {})
    assert value["overall"] == {
        "segment_ap": 0.75,
        "recall_at_p90": 0.75,
        "threshold_at_p90": 0.5,
        "recall": 0.75,
        "pair_ap": 1.0,
        "calibration_error": pytest.approx((0.1 + 0.5 + 0.2) / 3),
        "segments": 2,
        "pairs": 2,
        "predictions": 3,
    }
    curve = evaluation.curve
    assert (curve.scores[-1], curve.precisions[-1], curve.recalls[-1]) == (0.2, pytest.approx(15 / 20), 0.75)


def test_a_header_alone_means_no_predictions(write):
    evaluation = evaluate_videos(write("truth.csv", TRUTH), write("segments.csv", f"{HEADER},score\n"))
    assert (evaluation.overall.segment_ap, evaluation.overall.predictions) == (0.0, 0)
    assert any(line[-2:] == ["not", "reached"] for line in lines_of(evaluation))


@pytest.mark.parametrize("column", ["edits", "kind"])
def test_kinds_come_from_the_ground_truth(write, column):
    text = f"{HEADER},{column}\nQ1,R1,0,10,5,15,flip crop\nQ2,R2,2.5,12.5,0,10,\nQ1,R3,0,1,0,1,flip\n"
    evaluation = evaluate_videos(write("truth.csv", text), write("segments.csv", SEGMENTS))
    assert [(row.kind, row.queries, row.segments) for row in evaluation.by_kind] == [("crop", 1, 2), ("flip", 1, 2)]


def test_kinds_come_from_a_table_of_edits_before_the_ground_truths_own(write):
    truth = write(
        "truth.csv",
        TRUTH.replace("ref_end\n", "ref_end,kind\n").replace("15\n", "15,x\n").replace("0,10\n", "0,10,x\n"),
    )
    edits = write("edits.csv", "query_id,edits,speeds\nQ1,flip [b],1.0 0.72\nQ2,flip,1\nQ3,stack2,1.0\n")
    evaluation = evaluate_videos(truth, write("segments.csv", SEGMENTS), edits)
    by_kind = evaluation.to_json()["by_kind"]
    assert by_kind == {
        "[b]": {"queries": 1, "segments": 1, "segment_ap": 1.0, "recall": 1.0, **judged(1, 0, 0.1)},
        "flip": {"queries": 2, "segments": 2, "segment_ap": 0.75, "recall": 0.75, **judged(2, 0, (0.1 + 0.5) / 2)},
        "stack2": {"queries": 1, "segments": 0, "segment_ap": None, "recall": None, **judged(0, 0, None)},
    }
    lines = lines_of(evaluation)
    assert ["segment", "AP", "0.75000"] in lines
    assert ["[b]", "1", "1", "1.000", "1.000", "1", "0", "0.100"] in lines
    assert ["stack2", "1", "0", "–", "–", "0", "0", "–"] in lines
    assert ["…", "for", "other", "queries,", "counted", "as", "false", "1"] in lines


def test_edits_tell_more_than_kinds_and_rows_of_a_query_are_put_together(write):
    assert read_kinds(write("edits.csv", "kind,query_id,edits\nphoto,Q1,crop flip\nphoto,Q1,blur\n,Q2,\n")) == {
        "Q1": "crop flip blur",
        "Q2": "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is empty; give at least a header line", id="empty"),
        pytest.param(f"{HEADER}\nQ1,R1,0,1,0,1\n", "lacks the column 'score'", id="no score"),
        pytest.param(
            "query_id,score\nQ1,1\n", "lacks the column 'ref_id'; its columns are query_id, score", id="no reference"
        ),
        pytest.param(f"{HEADER},ref_id,score\n1,2,3,4,5,6,7,8\n", "more than one column 'ref_id'", id="twice"),
        pytest.param(
            f"{HEADER},score\nQ1,R1,0,late,0,1,1\n", "the query_end 'late' in row 1 .*; give seconds", id="text"
        ),
        pytest.param(f"{HEADER},score\nQ1,R1,0,,0,1,1\n", "the query_end '' in row 1", id="empty time"),
        pytest.param(f"{HEADER},score\nQ1,R1,0,1,0,1,high\n", "the score 'high' in row 1 .*more certain", id="score"),
        pytest.param(f"{HEADER},score\nQ1,,0,1,0,1,1\n", "row 1 .* has no ref_id; fill it in", id="no id"),
    ],
)
def test_unusable_segments_are_refused_with_the_place_and_the_cure(write, text, message):
    with pytest.raises(InputError, match=message):
        read_predicted_segments(write("segments.csv", text))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param(
            "Q1,R1,0,nan,0,1,1", r"segments\.csv: row 1 \(query 'Q1', reference 'R1'\) has the times", id="nan"
        ),
        pytest.param("Q1,R1,5,2,0,1,1", r"segments\.csv: row 1 .*ends at 2.0 before 5.0", id="backwards"),
        pytest.param("Q1,R1,0,1,0,1,inf", r"segments\.csv: row 1 .*has the score inf", id="infinite score"),
    ],
)
def test_impossible_values_are_refused_with_the_file_and_the_row(write, row, message):
    with pytest.raises(InputError, match=message):
        evaluate_videos(write("truth.csv", TRUTH), write("segments.csv", f"{HEADER},score\n{row}\n"))


def test_a_ground_truth_with_only_a_header_is_refused(write):
    with pytest.raises(InputError, match=r"truth\.csv has no true second.*give at least one row"):
        evaluate_videos(write("truth.csv", f"{HEADER}\n"), write("segments.csv", SEGMENTS))


def test_a_table_of_edits_without_edits_is_refused(write):
    with pytest.raises(InputError, match=r"edits\.csv has neither of the columns 'edits' and 'kind'; add one"):
        read_kinds(write("edits.csv", "query_id,speeds\nQ1,1.0\n"))


@pytest.mark.skipif(not VSC22_TRUTH.is_file(), reason="needs the VSC 2022 fixtures in ../shared/data")
def test_the_real_ground_truth_as_predictions_is_perfect(tmp_path):
    truth, kinds = read_true_segments(VSC22_TRUTH)
    columns = dict(zip(HEADER.split(",")[2:], truth.times.T, strict=True))
    ids = {"query_id": truth.queries, "ref_id": truth.references}
    pq.write_table(pa.table({**ids, **columns, "score": np.arange(len(truth.times))}), tmp_path / "segments.parquet")
    evaluation = evaluate_videos(VSC22_TRUTH, tmp_path / "segments.parquet")
    assert evaluation.overall.segment_ap == pytest.approx(1.0)
    assert (evaluation.queries, evaluation.of_other_queries, kinds) == (1929, 0, {})
