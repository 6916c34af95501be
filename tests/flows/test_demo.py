"""How the demo counts."""

from __future__ import annotations

from pathlib import Path

from flows.demo import count_found


def test_pairs_at_or_above_the_threshold_are_found_or_wrong(tmp_path: Path) -> None:
    truth, matches = tmp_path / "truth.csv", tmp_path / "matches.csv"
    truth.write_text("query_id,reference_id\na,x\nb,y\nc,z\nd,\n")
    matches.write_text("query_id,reference_id,score\na,x,0.9\nb,y,0.5\nc,z,0.49\nd,x,0.6\na,y,0.2\n")
    assert count_found(truth, matches, 0.5) == (2, 1, 3)
