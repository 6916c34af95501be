"""The commands for videos: most in this process, and in one of their own those that die or run out of disk."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from copytrace.cli import app
from copytrace.index.video_index import VideoIndex

COMMAND = [sys.executable, "-c", "from copytrace.cli import app; app()"]
# Segments are not verified, which takes as long as all else.
QUICK = ["descriptor.input_size=64", "panes.detector=none", "alignment.verified_segments=0"]
QUICK += ["report.max_matches=5", "media.shard_size=1"]
COPIES = {("mirrored", "chelsea"), ("whole", "coffee")}


def copytrace(*arguments: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False, **options)


def words(text: str) -> str:
    """What stands in a help text, without its frames and line breaks."""
    return " ".join(text.replace("│", " ").split())


def copies_in(out: Path) -> set[tuple[str, str]]:
    with (out / "segments.csv").open(newline="") as file:
        return {(row["query_id"], row["ref_id"]) for row in csv.DictReader(file) if float(row["score"]) >= 0.5}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is copied in the small videos."""
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    rows = ["mirrored,chelsea,0,9,1,10", "whole,coffee,0,12,0,12"]
    path.write_text("\n".join(["query_id,ref_id,query_start,query_end,ref_start,ref_end", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(video_sides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    result = copytrace("match-videos", video_sides / "queries", video_sides / "references", "--out", out, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "2 copied segments in 2 of 3 queries, from 3 references, in " in result.stdout
    assert f"segments {out / 'segments.csv'}" in result.stdout
    assert f"report   {out / 'report.html'}" in result.stdout
    assert "could not be read" not in result.stdout
    assert "describe queries" in result.stderr
    return out


def test_copies_are_found_and_measured(finished: Path, truth: Path) -> None:
    assert copies_in(finished) == COPIES
    result = copytrace("evaluate", "videos", truth, finished / "segments.csv", "--json")
    figures = json.loads(result.stdout)["overall"]
    assert figures["segment_ap"] > 0.9
    assert figures["pair_ap"] == 1.0


def test_figures_are_shown_by_kind_of_edit(finished: Path, truth: Path, tmp_path: Path) -> None:
    (tmp_path / "edits.csv").write_text("query_id,edits\nmirrored,flip cut\nwhole,none\n")
    arguments = ["evaluate", "videos", truth, finished / "segments.csv", "--edits", tmp_path / "edits.csv"]
    by_kind = json.loads(copytrace(*arguments, "--json").stdout)["by_kind"]
    assert {kind: figures["queries"] for kind, figures in by_kind.items()} == {"flip": 1, "cut": 1, "none": 1}
    table = copytrace(*arguments)
    assert table.exit_code == 0
    assert "segment AP" in table.stdout
    assert "flip" in table.stdout


def test_an_index_is_told_and_taken_for_the_references(finished: Path, video_sides: Path, tmp_path: Path) -> None:
    result = copytrace("index-videos", video_sides / "references", "--out", tmp_path / "index", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert f"3 references are in {tmp_path / 'index'}" in result.stdout
    result = copytrace("match-videos", video_sides / "queries", tmp_path / "index", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "describe references" not in result.stderr
    assert (tmp_path / "out" / "segments.csv").read_bytes() == (finished / "segments.csv").read_bytes()


def test_descriptors_go_out_and_come_in(finished: Path, tmp_path: Path) -> None:
    for role in ("queries", "references"):
        npz = tmp_path / f"{role}.npz"
        result = copytrace("export-descriptors", finished / "work" / role, "--out", npz)
        assert result.exit_code == 0, result.stderr
        rows = len(np.load(npz)["video_ids"])
        assert f"{rows:,} descriptors are in {npz}" in result.stdout
        result = copytrace("import-descriptors", npz, "--out", tmp_path / role, "--model", "theirs", "--role", role)
        assert f"3 videos are in {tmp_path / role}" in result.stdout
    result = copytrace("match-videos", tmp_path / "queries", tmp_path / "references", "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "2 copied segments in 2 of 3 queries" in result.stdout
    assert copies_in(tmp_path / "out") == COPIES
    again = copytrace("import-descriptors", tmp_path / "queries.npz", "--out", tmp_path / "queries", "--model", "x")
    assert (again.exit_code, len(again.stderr.strip().splitlines())) == (1, 1)
    assert "import into a new" in again.stderr


def test_an_ensemble_shortened_by_principal_components_finds_the_copies(video_sides: Path, tmp_path: Path) -> None:
    # By torch, which needs no graph of the second network.
    both = ["descriptor.also=[imagenet]", "descriptor.backend=torch"]
    references = video_sides / "references"
    result = copytrace("index-videos", references, "--out", tmp_path / "long", *QUICK, *both)
    assert result.exit_code == 0, result.stderr
    result = copytrace("fit-pca", tmp_path / "long", "--out", tmp_path / "pca", "--dimensions", "24")
    assert f"{tmp_path / 'pca'} shortens 1536 numbers to 24; fitted to 36 frames" in result.stdout, result.stderr
    few = [*both, f"descriptor.pca={tmp_path / 'pca'}"]
    result = copytrace("match-videos", video_sides / "queries", references, "--out", tmp_path / "out", *QUICK, *few)
    assert result.exit_code == 0, result.stderr
    index = VideoIndex.open(tmp_path / "out" / "work" / "references")
    assert index.frames(index.shards[0]).vectors.shape == (12, 24)
    assert index.provenance["descriptor"].startswith("descriptor + efficientnet_lite0 + pca at 64 px (")
    assert copies_in(tmp_path / "out") >= COPIES

    # The long vectors and the short ones are not of one model.
    arguments = ["match-videos", video_sides / "queries", tmp_path / "long", "--out", tmp_path / "mixed", *QUICK, *few]
    result = copytrace(*arguments)
    assert result.exit_code == 1
    assert "index it again, or choose its model" in result.stderr
    assert not (tmp_path / "mixed").exists()


def test_too_few_frames_for_principal_components_are_told_in_one_line(finished: Path, tmp_path: Path) -> None:
    result = copytrace("fit-pca", finished / "work" / "references", "--out", tmp_path / "pca")
    assert result.exit_code == 1
    assert "36 frames of 256 numbers cannot be shortened to 512" in result.stderr
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read_are_counted(video_sides: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "one\nname.mp4").write_text("not a video")
    (tmp_path / "queries" / "two.mp4").touch()
    index = finished / "work" / "references"
    arguments = ["match-videos", tmp_path / "queries", index, "--out", tmp_path / "out", *QUICK]
    stopped = copytrace(*arguments)
    assert (stopped.exit_code, len(stopped.stderr.strip().splitlines()[-1:])) == (1, 1)
    assert "copytrace: 2 of 2 videos among the queries cannot be read (100.0%)" in stopped.stderr
    done = copytrace(*arguments, "media.max_failure_rate=1")
    assert done.exit_code == 0, done.stderr
    assert "0 copied segments in 0 of 0 queries" in done.stdout
    assert f"2 files could not be read, or not to the end: {tmp_path / 'out' / 'failures.csv'}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["match-videos", "nowhere", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["match-videos", "nowhere", "nowhere", "--out", "out", "--preset", "imgfp"], "unknown preset 'imgfp'"),
        (["match-videos", "nowhere", "nowhere", "--out", "out", "search.noise=gone"], "gone is not an index; make one"),
        (["match-videos", "nowhere", "nowhere", "--out", "out", "descriptor.pca=gone"], "pca=gone cannot be read"),
        (["index-videos", "nowhere", "--out", "out", "local.neighbours=3"], "there is no setting local"),
        (["index-videos", "nowhere", "--out", "out", "frames.window=0"], "greater than or equal to 8"),
        (["evaluate", "videos", "nowhere.csv", "segments.csv"], "nowhere.csv"),
        (["export-descriptors", "nowhere", "--out", "out"], "make one with: copytrace index-videos"),
        (["import-descriptors", "nowhere.npz", "--out", "out", "--model", "x"], "no such file: nowhere.npz"),
        (["fit-pca", "nowhere", "--out", "out"], "nowhere is not an index"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = copytrace(*arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["match-videos"], ["Find which seconds of which REFERENCES the QUERIES show.", "segments.csv", "vsc22"]),
        (["index-videos"], ["Describe REFERENCES once", "an existing index is updated"]),
        (["evaluate", "videos"], ["segment AP", "query_id,ref_id,query_start,query_end,ref_start,ref_end", "--edits"]),
        (["export-descriptors"], [".npz of videos", "work/queries", "--panes"]),
        (["import-descriptors"], ["video_ids, timestamps and features", "--role", "queries|references"]),
        (["fit-pca"], ["principal components", "descriptor.pca=FILE", "--dimensions"]),
    ],
)
def test_help_tells_what_a_command_takes(arguments: list[str], told: list[str]) -> None:
    result = copytrace(*arguments, "--help", env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for text in told:
        assert text in words(result.stdout)


def start(arguments: list[str | Path], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, **options)


def test_a_killed_run_goes_on_and_gives_the_bytes_of_one_that_was_not(
    video_sides: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["match-videos", video_sides / "queries", video_sides / "references", "--out", out, *QUICK]
    process = start(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 500
    while not list(out.glob("work/queries/receipts/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    receipts = list(out.glob("work/*/receipts/*.json"))
    assert 0 < len(receipts) < 6, "it must be killed in the middle"
    done = [*receipts, *(path.parents[1] / "descriptors" / f"{path.stem}.parquet" for path in receipts)]
    times = {path: path.stat().st_mtime_ns for path in done}
    assert not (out / "segments.csv").exists()

    result = copytrace(*arguments)

    assert result.exit_code == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == times
    for name in ("segments.csv", "segments.parquet", "failures.csv", "report.html"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    assert len(list(out.glob("work/*/receipts/*.json"))) == 6


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_disk_is_one_clear_line_and_leaves_no_part_of_a_file(
    video_sides: Path, finished: Path, tmp_path: Path
) -> None:
    arguments: list[str | Path] = ["match-videos", video_sides / "queries", video_sides / "references"]
    arguments += ["--out", tmp_path, *QUICK]
    process = start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit_files)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 1
    (told,) = (line for line in errors.splitlines() if line.startswith("copytrace: "))
    full = tmp_path / "work" / "queries" / "descriptors" / "00000.parquet"
    assert told == (
        f"copytrace: [Errno 27] File too large: '{full}'; what was finished is kept, and the same command goes on "
        "from there"
    )
    assert "Traceback" not in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".part"]
    assert not list(tmp_path.glob("work/*/receipts/*"))

    assert copytrace(*arguments).exit_code == 0
    assert (tmp_path / "segments.csv").read_bytes() == (finished / "segments.csv").read_bytes()
