"""Reading of ground truth and predictions, and the golden figures of the challenge's own files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from copytrace.errors import InputError
from copytrace.metrics.evaluation import evaluate_images, read_ground_truth, read_predictions
from copytrace.storage import remove_tree, resolve_path

DISC21 = Path(__file__).parents[3] / "shared" / "data" / "fixtures" / "disc21"

TRUTH = "query_id,reference_id,kind,edits\nQ1,R1,crop,crop hflip\nQ2,,crop,crop\nQ3,R3,overlay,onto_photo\n"
PREDICTIONS = "query_id,reference_id,score\nQ1,R1,0.9\nQ2,R7,0.5\nQ9,R3,0.2\n"


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def rows_of(path: Path) -> list[tuple[str, str, float]]:
    predictions = read_predictions(path)
    return list(zip(predictions.queries, predictions.references, predictions.scores, strict=True))


@pytest.mark.skipif(not DISC21.is_dir(), reason="needs the DISC21 fixtures in ../shared/data")
def test_imgfp_predictions_give_the_figures_of_the_official_script():
    evaluation = evaluate_images(DISC21 / "public_ground_truth.csv", DISC21 / "imgfp_predictions_public.tsv")
    overall = evaluation.overall
    assert round(overall.micro_ap, 5) == 0.89811
    assert round(overall.recall_at_p90, 5) == 0.80104
    assert overall.threshold_at_p90 == 34
    assert round(overall.rank1, 5) == 0.98758
    assert (overall.rank10, overall.pairs, overall.predictions) == (1.0, 4991, 28691)
    assert (evaluation.queries, evaluation.unknown, evaluation.by_kind) == (25000, 0, ())


def test_ground_truth_keeps_empty_references_and_kinds(write):
    truth = read_ground_truth(write("truth.csv", TRUTH))
    assert list(truth.references) == ["R1", "", "R3"]
    assert list(truth.kinds) == ["crop", "crop", "overlay"]


def test_ground_truth_without_a_header_is_read(write):
    truth = read_ground_truth(write("truth.csv", "Q1,R1\nQ2,\n"))
    assert (list(truth.queries), list(truth.references), truth.kinds) == (["Q1", "Q2"], ["R1", ""], None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("p.csv", "query_id,reference_id,score\n007,R1,0.5\n8,NA,-2\n", id="header"),
        pytest.param("p.csv", "007,R1,0.5\n8,NA,-2\n", id="no header"),
        pytest.param("p.tsv", "query_id\treference_id\tscore\n007\tR1\t0.5\n8\tNA\t-2\n", id="tabs"),
        pytest.param("p.txt", "007\tR1\t0.5\n8\tNA\t-2\n", id="tabs without a header"),
        pytest.param("p.csv", "score,matches,reference_id,query_id\n0.5,3,R1,007\n-2,0,NA,8\n", id="other columns"),
        pytest.param("p.csv", "\ufeffquery_id, reference_id, score\r\n007, R1, 0.5\r\n8, NA, -2e0\r\n", id="Windows"),
        pytest.param("p.csv", "\n\nquery_id,reference_id,score\n\n007,R1,0.5\n8,NA,-2\n\n", id="blank lines"),
    ],
)
def test_predictions_are_read_from_text_with_ids_as_written(write, name, text):
    assert rows_of(write(name, text)) == [("007", "R1", 0.5), ("8", "NA", -2.0)]


@pytest.mark.parametrize("scores", [pa.array([1, -2]), pa.array([1.0, -2.0], pa.float32()), pa.array(["1", "-2.0"])])
def test_predictions_are_read_from_parquet_with_ids_as_strings(tmp_path, scores):
    table = pa.table({"query_id": [7, 8], "reference_id": ["R1", "R2"], "score": scores, "inliers": [3, 4]})
    pq.write_table(table, tmp_path / "matches.parquet")
    assert rows_of(tmp_path / "matches.parquet") == [("7", "R1", 1.0), ("8", "R2", -2.0)]


def test_a_null_reference_in_parquet_means_no_match(tmp_path):
    pq.write_table(pa.table({"query_id": ["Q1", "Q2"], "reference_id": ["R1", None]}), tmp_path / "truth.parquet")
    assert list(read_ground_truth(tmp_path / "truth.parquet").references) == ["R1", ""]


def test_predictions_with_only_a_header_are_none_and_score_0(write):
    evaluation = evaluate_images(write("truth.csv", TRUTH), write("p.csv", "query_id,reference_id,score\n"))
    assert (evaluation.overall.micro_ap, evaluation.overall.predictions) == (0.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is empty; give at least a header line", id="empty"),
        pytest.param(
            "query_id,ref_id,score\nQ1,R1,1\n", "lacks the column 'reference_id'; its columns are", id="column"
        ),
        pytest.param("query_id,reference_id,score,score\nQ1,R1,1,2\n", "more than one column 'score'", id="twice"),
        pytest.param(
            "Q1,R1\n", "begins with 'Q1,R1': neither a header nor query_id,reference_id,score", id="two cells"
        ),
        pytest.param("Q1,R1,0.5\nQ2,R2,high\n", r"the score 'high' in row 2 \(not counting the header\)", id="text"),
        pytest.param("query_id,reference_id,score\nQ1,R1,\n", "the score '' in row 1", id="no score"),
        pytest.param("query_id,reference_id,score\nQ1,,0.5\n", "row 1 .* has no reference_id", id="no reference"),
        pytest.param("query_id,reference_id,score\nQ1,R1,1\nQ2,R2\n", "Row #3: Expected 3 columns, got 2", id="ragged"),
        pytest.param(b"query_id,reference_id,score\n\xff\xfe,R1,1\n", "unreadable table", id="not UTF-8"),
    ],
)
def test_unusable_predictions_are_refused_with_the_place_and_the_cure(write, text, message):
    with pytest.raises(InputError, match=message):
        read_predictions(write("predictions.csv", text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*absent\.csv; give a CSV or Parquet file with query_id"):
        read_ground_truth(tmp_path / "absent.csv")


def test_a_parquet_file_that_is_none_is_refused(write):
    with pytest.raises(InputError, match=r"unreadable table .*p\.parquet"):
        read_predictions(write("p.parquet", PREDICTIONS))


def test_a_null_score_in_parquet_is_refused(tmp_path):
    table = pa.table({"query_id": ["Q1", "Q2"], "reference_id": ["R1", "R2"], "score": [0.5, None]})
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InputError, match="the score '' in row 2"):
        read_predictions(tmp_path / "p.parquet")


def test_ids_that_cannot_be_text_are_refused(tmp_path):
    pq.write_table(pa.table({"query_id": [["Q1"]], "reference_id": ["R1"]}), tmp_path / "truth.parquet")
    with pytest.raises(InputError, match=r"truth\.parquet: the column 'query_id' has the type list"):
        read_ground_truth(tmp_path / "truth.parquet")


def test_a_score_of_nan_is_refused_with_the_file_and_the_pair(write):
    predictions = write("p.csv", PREDICTIONS + "Q3,R3,nan\n")
    with pytest.raises(InputError, match=r"p\.csv: query 'Q3', reference 'R3' has the score nan"):
        evaluate_images(write("truth.csv", TRUTH), predictions)


def test_an_evaluation_becomes_plain_json(write):
    evaluation = evaluate_images(write("truth.csv", TRUTH), write("p.csv", PREDICTIONS))
    value = json.loads(json.dumps(evaluation.to_json()))
    assert (value["queries"], value["unknown"]) == (3, 1)
    assert value["overall"] == {
        "micro_ap": 0.5,
        "recall_at_p90": 0.5,
        "threshold_at_p90": 0.9,
        "rank1": 0.5,
        "rank10": 0.5,
        "calibration_error": pytest.approx((0.1 + 0.5 + 0.2) / 3),
        "pairs": 2,
        "predictions": 3,
    }
    assert value["by_kind"]["crop"] == {
        **{"queries": 2, "pairs": 1, "top1": 1.0, "found": 1.0, "micro_ap": 1.0},
        **{"sure": 1, "mistaken": 1, "calibration_error": pytest.approx((0.1 + 0.5) / 2)},
    }
    assert list(value["by_kind"]) == ["crop", "overlay"]


def test_an_evaluation_is_rendered_with_its_kinds_and_its_unknown_queries(write):
    truth = write("truth.csv", TRUTH.replace("overlay", "[b]"))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(evaluate_images(truth, write("p.csv", PREDICTIONS)).render())
    lines = [line.replace("│", " ").replace("|", " ").split() for line in capture.get().splitlines()]
    assert ["micro-AP", "0.50000"] in lines
    assert ["crop", "2", "1", "1.000", "1.000", "1.000", "1", "1", "0.300"] in lines
    assert ["[b]", "1", "1", "0.000", "0.000", "0.000", "0", "0", "–"] in lines
    assert any(line[-1:] == ["1"] and "counted" in line for line in lines)


def test_a_precision_that_is_never_reached_is_said_so(write):
    evaluation = evaluate_images(write("truth.csv", TRUTH), write("p.csv", "Q2,R1,1\nQ1,R1,0\n"))
    assert evaluation.overall.threshold_at_p90 is None
    console = Console(width=100)
    with console.capture() as capture:
        console.print(evaluation.render())
    assert "not reached" in capture.get()


def test_ids_are_plain_strings(write):
    queries = read_predictions(write("p.csv", PREDICTIONS)).queries
    assert isinstance(queries, np.ndarray)
    assert {type(query) for query in queries} == {str}


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.parquet"])
def test_files_in_a_store_give_the_figures_of_those_on_disk(write, tmp_path, name):
    truth, predictions = write("truth.csv", TRUTH), write("predictions.csv", PREDICTIONS)
    table = pa.csv.read_csv(predictions)
    pq.write_table(table, tmp_path / "predictions.parquet")
    there = resolve_path("memory://evaluation")
    for path in (truth, tmp_path / name):
        (there / path.name).write_bytes(path.read_bytes())
    assert evaluate_images(there / "truth.csv", there / name).overall == evaluate_images(truth, predictions).overall
    with pytest.raises(InputError, match="no such file: memory://evaluation/absent"):
        evaluate_images(there / "absent", there / name)
    remove_tree(there)
