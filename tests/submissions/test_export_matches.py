"""Matches of a run as tables that the challenges' own code reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from copytrace.cli import app
from copytrace.errors import InputError
from copytrace.run_folder import ImageRunFolder, VideoRunFolder
from copytrace.step import Step
from copytrace.submissions import write
from copytrace.submissions.write import write_matches
from copytrace.tables import write_table

IMAGES: dict[str, list[Any]] = {"query_id": ["Q00001", "Q00002"], "reference_id": ["R000001"] * 2, "votes": [3, 4]}
VIDEOS: dict[str, list[Any]] = {
    "query_id": ["Q200001"],
    "ref_id": ["R200001"],
    **{
        name: [second]
        for name, second in (("ref_start", 2.5), ("ref_end", 4.0), ("query_start", 0.0), ("query_end", 1.5))
    },
}


def finish(file: Path, record: Path, columns: dict[str, list[Any]], scores: list[float]) -> None:
    with Step("merge", (file,), "made", record).run(1, "shards"):
        write_table(file, pa.table({**columns, "score": scores}))


def test_matches_of_images_have_three_columns_without_quotes_and_no_more_rows_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_MATCHES", 1)
    folder = ImageRunFolder(tmp_path / "run")
    finish(folder.matches, folder.merged, IMAGES, [0.75, 1e-9])
    assert write_matches(folder.out, tmp_path / "m.csv") == ("disc21", 1)
    assert (tmp_path / "m.csv").read_text() == "query_id,reference_id,score\nQ00001,R000001,0.75\n"


def test_segments_have_the_columns_in_the_order_of_the_validator(tmp_path: Path) -> None:
    folder = VideoRunFolder(tmp_path / "run")
    finish(folder.segments, folder.merged, VIDEOS, [0.5])
    result = CliRunner().invoke(app, ["export-matches", str(folder.out), "--out", str(tmp_path / "m.csv")])
    assert f"1 matches are in {tmp_path}/m.csv; check them with: copytrace submit-check vsc22" in result.stdout
    header, row = (tmp_path / "m.csv").read_text().splitlines()
    assert header == "query_id,ref_id,query_start,query_end,ref_start,ref_end,score"
    assert row == "Q200001,R200001,0,1.5,2.5,4,0.5"


def test_what_is_no_run_and_ids_that_need_quotes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no matches; give the output folder"):
        write_matches(tmp_path, tmp_path / "m.csv")
    folder = ImageRunFolder(tmp_path / "run")
    finish(folder.matches, folder.merged, {**IMAGES, "query_id": ["a,b", "c"]}, [1.0, 0.5])
    with pytest.raises(InputError, match="has a comma, a quote or a line end"):
        write_matches(folder.out, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
