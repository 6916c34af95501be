from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copytrace.cells import neutralize, neutralize_column, restore, restore_column
from copytrace.media.failures import Failure, read_failures, write_failures
from copytrace.metrics.evaluation import read_predictions
from copytrace.tables import write_csv

RUN = ("=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "=cmd|'/c calc'!A0")
TEXTS = st.text(alphabet=st.sampled_from("'=+-@\t\r\na1 ,\"é"), max_size=6)


@pytest.mark.parametrize("text", [*RUN, "'=1", "''@"])
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(text: str) -> None:
    assert neutralize(text) == f"'{text}"
    assert restore(neutralize(text)) == text


@pytest.mark.parametrize("text", ["", "R000123", "a=b", "photos/-1", "'quoted'", "’tis"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert neutralize(text) == restore(text) == text


@given(st.lists(TEXTS | st.none(), max_size=5))
def test_columns_are_neutralized_like_texts_and_come_back(texts: list[str | None]) -> None:
    column = pa.chunked_array([texts], pa.string())
    written = neutralize_column(column)
    assert written.to_pylist() == [None if text is None else neutralize(text) for text in texts]
    assert restore_column(written) == column


def test_matches_and_failures_come_back_from_their_files(tmp_path: Path) -> None:
    table = pa.table({"query_id": list(RUN[:4]), "reference_id": ["r"] * 4, "score": [0.5] * 4, "offset": ["-1"] * 4})
    path = write_csv(tmp_path / "matches.csv", table)
    as_seen = pyarrow.csv.read_csv(
        path, convert_options=pyarrow.csv.ConvertOptions(column_types={"offset": pa.string()})
    )
    assert all(name.startswith("'") for name in as_seen.column("query_id").to_pylist())
    assert set(as_seen.column("offset").to_pylist()) == {"-1"}  # what we compute stays a number
    assert sorted(read_predictions(path).queries) == sorted(RUN[:4])
    failures = [Failure(text, text, "decode", text.strip()) for text in RUN]
    path = write_failures(tmp_path / "failures.csv", failures)
    assert sorted(map(repr, read_failures(path))) == sorted(map(repr, failures))


def test_signatures_of_links_are_not_written_down(tmp_path: Path) -> None:
    link = "https://ada:secret@host/a.jpg?X-Amz-Signature=abc"
    path = write_failures(tmp_path / "failures.csv", [Failure("a", link, "decode", "not found")])
    assert not {"secret", "abc"} & set(path.read_text().replace("=", " ").replace(":", " ").split())
    assert "https://host/a.jpg" in path.read_text()
