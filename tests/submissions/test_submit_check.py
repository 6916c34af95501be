"""What `submit-check` says of files of both challenges: each fault with its row and cure, nothing of valid files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from copytrace.cli import app
from copytrace.submissions.media_lists import read_media_list

SEGMENTS = "query_id,ref_id,query_start,query_end,ref_start,ref_end,score\n"
CANDIDATES = "query_id,ref_id,score\n"
MATCHES = "query_id,reference_id,score\n"
VECTORS = np.ones((4, 3), np.float32)


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["submit-check", *map(str, arguments)], catch_exceptions=False)


def fault(challenge: str, text: str, folder: Path, *options: str | Path) -> str:
    """Check a table that must have a fault, and return what is said of it, without its path."""
    path = folder / "table.csv"
    path.write_bytes(text.encode())
    result = check(challenge, path, *options)
    assert result.exit_code == 1, result.output
    return result.stdout.replace(f"{path}: ", "")


def save_npz(path: Path, **changes: Any) -> Path:
    arrays = {
        "video_ids": np.array(["Q200001", "Q200001", "Q200002", "Q200003"]),
        "timestamps": np.array([0.0, 1.0, 0.0, 0.0]),
        "features": VECTORS,
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.csv"
    path.write_text("video_id,duration_sec,rn\nQ200001,1.2,1\nQ200002,1,2\nQ200003,0.5,3\n")
    return path


def test_a_valid_file_is_told_in_one_line_with_what_was_not_checked(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"{SEGMENTS}Q200001,R200001,0,10,5,15,0.9\nQ200001,R200002,1,2,3.5,5,0.1\n")
    result = check("vsc22", tmp_path / "m.csv")
    assert (result.exit_code, result.stdout) == (
        0,
        f"{tmp_path}/m.csv is valid: matches of VSC22, 2 rows, 1 queries, 2 references; not checked: whether each "
        "query_id exists (give --queries); whether each ref_id exists (give --references)\n",
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            "Q1,R1,-1,10,5,15,1\nQ1,R1,-2,9,5,6,1",
            "row 1 and 1 more: query_start is negative (-1.0); give seconds from 0",
        ),
        ("Q1,R1,0,1,5,15,1\nQ1,R1,3,2,0,1,1", "row 2: query_start is after query_end (3 and 2); give the earlier time"),
        ("Q1,R1,0,1,,15,1", "row 1: ref_start is no finite number (empty); give finite seconds"),
        ("Q1,R1,0,inf,0,1,1", "row 1: query_end is no finite number (inf)"),
        ("Q1,R1,0,1,0,1,high", "row 1: score is no finite number (high)"),
        ("X1,R1,0,1,0,1,1", "row 1: a query_id does not begin with Q (X1); write ids as Q200001"),
        ("200001,R1,0,1,0,1,1\nQ1,R1,0,1,0,1,1", "row 1: a query_id does not begin with Q; write ids as Q200001"),
        (",R1,0,1,0,1,1", "row 1: there is no query_id; fill it in or drop the row"),
        ("Q1,R1,3,3,0,1,0.5\nQ1,R1,0,1,0,1,0.4", "no row with the highest score has a length"),
        ("Q1,R1,0,1,0,1,1\nQ1,R1,0,1,0,1,1,7", "it is no table in UTF-8: Error tokenizing data"),
        ("Q1,R1,0,1,0,1,1,7", "rows have more values than the header has names"),
        ("", "it has no rows, and the scorer fails on that; give at least one"),
    ],
)
def test_faults_of_segments_are_told_with_row_and_cure(rows: str, told: str, tmp_path: Path) -> None:
    assert told in fault("vsc22", f"{SEGMENTS}{rows}\n", tmp_path, "--kind", "matching")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "ref_id,query_id,query_start,query_end,ref_start,ref_end,score\n",
            "its columns are in the order ref_id,query_id",
        ),
        (
            "query_id,ref_id,query_start,query_end,ref_start,ref_end\n",
            "it lacks the column score; begin with the header",
        ),
        (f"{SEGMENTS[:-1]},pane\nQ1,R1,0,1,0,1,1,x\n", "it has the column pane, which the scorer refuses"),
        ("", "it is no table in UTF-8: No columns to parse from file"),
        (SEGMENTS.replace("_", "\0"), "it has null bytes"),
    ],
)
def test_faults_of_the_header_are_told(text: str, told: str, tmp_path: Path) -> None:
    assert told in fault("vsc22", text, tmp_path)


def test_unknown_videos_and_times_after_their_end_are_told_if_the_videos_are_given(
    tmp_path: Path, metadata: Path
) -> None:
    rows = "Q200001,R1,0,2.1,0,1,1\nQ200001,R1,0,2.3,0,1,1\nQ9,R1,0,1,0,1,1\n"
    told = fault("vsc22", SEGMENTS + rows, tmp_path, "--queries", metadata)
    assert "row 2: query_end is after the end of the video (2.3)" in told
    assert f"row 3: a query_id is not in {metadata} (Q9)" in told


def test_candidates_are_known_by_their_header_and_may_not_repeat_a_pair(tmp_path: Path, metadata: Path) -> None:
    assert "row 2: a pair occurs again" in fault("vsc22", f"{CANDIDATES}Q1,R1,0.5\nQ1,R1,0.4\n", tmp_path)
    many = "".join(f"Q200001,R{number},0.5\n" for number in range(76))
    assert "76 pairs for 3 queries; keep the best 75" in fault(
        "vsc22", CANDIDATES + many, tmp_path, "--queries", metadata
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{MATCHES}Q00001,R000001,1\nQ00001,R000001,2\n", "row 2: a pair occurs again (Q00001,R000001); keep one row"),
        (f"{MATCHES}Q00001,R000001,nan\n", "row 1: the score is no finite number (nan)"),
        (f"{MATCHES}Q00001,R000001,1_0\n", "row 1: the score is no finite number (1_0)"),
        (f"{MATCHES}Q1,R000001,1\n", "row 1: a query_id is no id of the challenge (Q1); give Q00000 to Q99999"),
        (f"{MATCHES}Q00001,R000001\n", "row 1: there are 2 values (Q00001,R000001); give query_id,reference_id,score"),
        (f"{MATCHES}Q00001,R000001,1\n\n", "row 2: the line is blank, and isc2021 fails on that; drop it"),
        (f"\ufeff{MATCHES}Q00001,R000001,1\n", "it begins with a byte order mark, which isc2021 reads as data"),
        ("Q00001,R000001,1\n", "it begins with 'Q00001,R000001,1'; begin with the header query_id,reference_id,score"),
        ("x" * 20_000, "a line is longer than any match"),
        ("", "it is empty; give a header"),
    ],
)
def test_faults_of_matches_of_images_are_told_with_row_and_cure(text: str, told: str, tmp_path: Path) -> None:
    assert told in fault("disc21", text, tmp_path)


def test_windows_line_ends_are_valid_and_a_row_too_many_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copytrace.submissions.disc21_tables.MOST_MATCHES", 2)
    rows = "Q00001,R000001,1\r\nQ00001,R000002,-3e-2\r\n"
    (tmp_path / "m.csv").write_bytes(f"{MATCHES}{rows}".replace("score\n", "score\r\n").encode())
    assert check("disc21", tmp_path / "m.csv").exit_code == 0
    assert "it has 3 rows; keep the 2 with the highest scores" in fault(
        "disc21", f"{MATCHES}{rows}Q00002,R000002,0\n", tmp_path
    )


def test_a_ground_truth_is_checked_if_it_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("query_id,reference_id\nQ00000,\nQ00001,R000001\n")
    (tmp_path / "videos.csv").write_text(SEGMENTS.replace(",score", "") + "Q1,R1,0,1,0,1\n")
    assert check("disc21", tmp_path / "images.csv", "--kind", "ground-truth").exit_code == 0
    assert check("vsc22", tmp_path / "videos.csv", "--kind", "ground-truth").exit_code == 0
    assert check("vsc22", tmp_path / "videos.csv").exit_code == 1


def test_descriptors_within_the_budget_are_valid_and_one_row_more_is_not(tmp_path: Path, metadata: Path) -> None:
    path = save_npz(tmp_path / "q.npz")
    assert check("vsc22", path, "--queries", metadata).exit_code == 0
    (tmp_path / "subset.csv").write_text("video_id\nQ200001\nQ200002\n")
    result = check("vsc22", path, "--queries", metadata, "--subset", tmp_path / "subset.csv")
    assert result.exit_code == 1
    assert "it has 4 rows for 3 seconds of video; give at most one per second" in result.stdout
    assert "row 4: a video_id is not in" in result.stdout


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"video_ids": np.array(["Q2", "Q1", "Q3", "Q4"])},
            "row 2: a video_id comes before the one above it (Q1); sort",
        ),
        ({"video_ids": np.array([b"Q1"] * 4)}, "video_ids has the type |S2, which the scorer refuses; resave it"),
        ({"video_ids": np.array(["Q1", "Q2", "Q3", "R4"])}, "row 4: a video_id does not begin with Q (R4)"),
        ({"features": VECTORS.astype(">f4")}, "features have the type >f4; write them by features.astype"),
        ({"features": np.ones((4, 513), "f4")}, "a descriptor has 513 numbers; give at most 512"),
        ({"features": VECTORS * np.float32([[1], [np.nan], [1], [1]])}, "row 2: a descriptor has numbers that are not"),
        ({"features": VECTORS[:3]}, "the arrays do not fit: video_ids (4,), timestamps (4,), features (3, 3)"),
        ({"features": np.ones(4, "f4")}, "features have the shape (4,); give (n, d)"),
        ({"timestamps": np.ones((4, 3))}, "timestamps have the shape (4, 3); give (n,), or (n, 2)"),
        ({"timestamps": np.array([0, 1, np.inf, 0])}, "row 3: a timestamp is not finite (Q200002)"),
        ({"timestamps": None}, "it lacks the array timestamps; resave it"),
        ({"timestamps": np.array([None] * 4)}, "timestamps holds Python objects, which can carry code"),
    ],
)
def test_faults_of_descriptors_of_videos_are_told(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    result = check("vsc22", save_npz(tmp_path / "q.npz", **changes))
    assert result.exit_code == 1
    assert told in result.stdout


def test_files_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    queries = save_npz(tmp_path / "q.npz")
    references = save_npz(tmp_path / "r.npz", video_ids=np.array(["R1"] * 4), features=np.ones((4, 2), "f4"))
    assert "the descriptors of the files have 3 and 2 numbers" in check("vsc22", queries, references).stdout
    assert (
        "all files hold queries; give one of queries and one of references" in check("vsc22", queries, queries).stdout
    )


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    path, honest = tmp_path / "q.npz", save_npz(tmp_path / "honest.npz")
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"(4, 3), }        ", b"(4000000000, 3), }", 1))
    told = check("vsc22", path).stdout
    assert "unreadable .npz file" in told
    assert "should have 48,000,000,12" in told


def test_what_cannot_be_checked_ends_with_two(tmp_path: Path, metadata: Path) -> None:
    (tmp_path / "m.csv").write_text(f"{MATCHES}Q00001,R000001,1\n")
    with zipfile.ZipFile(tmp_path / "submission.zip", "w") as archive:
        archive.writestr("full_matches.csv", SEGMENTS)
    for arguments, told in (
        (("disc21", tmp_path / "absent.csv"), "no such file"),
        (("vsc22", tmp_path / "submission.zip"), "is an archive; unpack it"),
        (("disc21", tmp_path / "m.csv", "--kind", "candidates"), "there are no candidates in disc21"),
        (("disc21", tmp_path / "m.csv", "--queries", tmp_path / "absent"), "no such file"),
        (("disc21", tmp_path / "m.csv", "--subset", metadata), "give --queries, too"),
    ):
        result = check(*arguments)
        assert (result.exit_code, told in result.stderr) == (2, True)


def test_lists_of_media_are_metadata_or_ids_in_lines(tmp_path: Path, metadata: Path) -> None:
    assert read_media_list(metadata).budget == 2 + 1 + 1
    (tmp_path / "dev_queries").write_text("Q00000\nQ00001\n")
    listed = read_media_list(tmp_path / "dev_queries")
    assert (listed.ids, listed.seconds, listed.budget) == ({"Q00000", "Q00001"}, {}, 0)
