"""What Prefect's pages show of the matches."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import MATCH_COLUMNS, TOP_ROWS, top_rows

HEADER = ",".join([*MATCH_COLUMNS, "coverage"])


def test_the_best_matches_are_the_first_rows(tmp_path: Path) -> None:
    csv = tmp_path / "matches.csv"
    csv.write_text(
        "\n".join([HEADER, *(f"q{n},r{n},{1 - n / 100},global+local,{n},false,0.5" for n in range(60))]) + "\n"
    )

    rows = top_rows(csv, MATCH_COLUMNS)

    assert len(rows) == TOP_ROWS
    assert rows[0] == dict(zip(MATCH_COLUMNS, ("q0", "r0", 1.0, "global+local", 0, False), strict=True))
    assert rows[-1]["query_id"] == "q49"


def test_a_run_without_matches_has_an_empty_table(tmp_path: Path) -> None:
    csv = tmp_path / "matches.csv"
    csv.write_text(HEADER + "\n")
    assert top_rows(csv, MATCH_COLUMNS) == []
