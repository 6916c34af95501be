"""How the demo counts."""

from __future__ import annotations

from pathlib import Path

from flows.demo import count_found, count_found_segments


def test_pairs_at_or_above_the_threshold_are_found_or_wrong(tmp_path: Path) -> None:
    truth, matches = tmp_path / "truth.csv", tmp_path / "matches.csv"
    truth.write_text("query_id,reference_id\na,x\nb,y\nc,z\nd,\n")
    matches.write_text("query_id,reference_id,score\na,x,0.9\nb,y,0.5\nc,z,0.49\nd,x,0.6\na,y,0.2\n")
    assert count_found(truth, matches, 0.5) == (2, 1, 3)


def test_segments_that_overlap_a_true_one_well_are_found(tmp_path: Path) -> None:
    truth, segments = tmp_path / "truth.csv", tmp_path / "segments.csv"
    header = "query_id,ref_id,query_start,query_end,ref_start,ref_end"
    truth.write_text(f"{header}\na,x,0,10,0,10\nb,y,0,10,5,15\nc,z,0,4,0,4\n")
    rows = ["a,x,1,10,1,10,0.9", "b,y,0,10,20,30,0.8", "c,z,0,4,0,4,0.4", "d,x,0,5,0,5,0.7"]
    segments.write_text("\n".join([f"{header},score", *rows]) + "\n")
    assert count_found_segments(truth, segments, 0.5) == (1, 1, 3)
