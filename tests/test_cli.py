"""The commands for images: all in this process, but for one that proves what a process of its own ends with."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from copytrace.cli import app
from copytrace.synthesis.sample_photos import sample_photos
from tests.few_points import FEW_POINTS

QUICK = [f"local.{name}={json.dumps(value)}" for name, value in FEW_POINTS.items()] + ["report.max_matches=20"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five reference photographs, and copies of three of them: mirrored, inverted, and cropped."""
    root = tmp_path_factory.mktemp("photos")
    for folder in ("references", "queries"):
        (root / folder).mkdir()
    originals = {}
    for photo in sample_photos()[:6]:
        with Image.open(photo.path) as image:
            originals[photo.id] = image.convert("RGB")
            originals[photo.id].thumbnail((300, 300))
    names = list(originals)
    for name in names[:5]:
        originals[name].save(root / "references" / f"{name}.png")
    width, height = originals[names[2]].size
    copies = {
        "mirrored": originals[names[0]].transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "negative": Image.fromarray(255 - np.asarray(originals[names[1]])),
        "cropped": originals[names[2]].crop((width // 5, height // 5, width * 4 // 5, height * 4 // 5)),
        "stranger": originals[names[5]],
    }
    for name, image in copies.items():
        image.save(root / "queries" / f"{name}.png")
    answers = [("mirrored", names[0]), ("negative", names[1]), ("cropped", names[2]), ("stranger", "")]
    with (root / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("query_id", "reference_id"), *answers])
    return root


def copytrace(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def match(photos: Path, out: Path, *settings: str) -> Result:
    return copytrace("match-images", photos / "queries", photos / "references", "--out", out, *QUICK, *settings)


def contents(out: Path) -> dict[str, bytes]:
    names = ("matches.csv", "matches.parquet", "failures.csv", "report.html")
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run = match(photos, out)
    assert run.exit_code == 0, run.stderr
    return out


def test_mirrored_inverted_and_cropped_copies_are_found_and_a_stranger_is_not(photos: Path, finished: Path) -> None:
    run = copytrace("evaluate", "images", photos / "truth.csv", finished / "matches.csv", "--json")
    assert json.loads(run.stdout)["overall"]["micro_ap"] == 1.0
    counts = json.loads((finished / "run.json").read_text())["counts"]
    assert (counts["queries"], counts["references"], counts["copies"]) == (4, 5, 3)


def test_a_rerun_redoes_nothing_and_gives_the_same_bytes(photos: Path, finished: Path) -> None:
    before = contents(finished) | {"run.json": (finished / "run.json").read_bytes()}
    run = match(photos, finished)
    assert run.exit_code == 0, run.stderr
    assert "describe" not in run.stderr
    assert contents(finished) | {"run.json": (finished / "run.json").read_bytes()} == before


def test_an_index_gives_what_the_folder_gives(photos: Path, finished: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert copytrace("index-images", photos / "references", "--out", index, *QUICK).exit_code == 0
    run = copytrace("match-images", photos / "queries", index, "--out", tmp_path / "out", *QUICK)
    assert run.exit_code == 0, run.stderr
    assert (tmp_path / "out" / "matches.csv").read_bytes() == (finished / "matches.csv").read_bytes()


def test_unreadable_files_are_listed_and_the_run_goes_on(photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    whole = (photos / "queries" / "cropped.png").read_bytes()
    (broken / "whole.png").write_bytes(whole)
    (broken / "cut.png").write_bytes(whole[: len(whole) // 2])
    (broken / "header.png").write_bytes(whole[:200])
    (broken / "empty.jpg").touch()
    (broken / "notes.txt").write_text("no picture, and none that is missed")
    references = photos / "references"
    run = copytrace("match-images", broken, references, "--out", tmp_path / "out", *QUICK, "media.max_failure_rate=0.7")
    assert run.exit_code == 0, run.stderr
    assert f"3 files could not be read, or not to the end: {tmp_path / 'out' / 'failures.csv'}" in run.stdout
    assert f"passed over 1 file that is no image: {tmp_path / 'out' / 'passed_over.csv'}" in run.stdout
    with (tmp_path / "out" / "failures.csv").open() as file:
        assert [(row["id"], row["error"]) for row in csv.DictReader(file)] == [
            ("cut", "truncated PNG; used up to there"),
            ("empty", "empty file"),
            ("header", "truncated PNG"),
        ]
    run = copytrace("match-images", broken, references, "--out", tmp_path / "out", *QUICK)
    assert run.exit_code == 1
    assert "2 of 4 images among the queries cannot be read (50.0%)" in run.stderr


def test_copies_within_one_folder_are_found_once_and_never_in_themselves(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for path in [*(photos / "references").iterdir(), photos / "queries" / "cropped.png"]:
        (folder / path.name).write_bytes(path.read_bytes())
    run = copytrace("match-images", folder, folder, "--out", tmp_path / "out", *QUICK)
    assert run.exit_code == 0, run.stderr
    with (tmp_path / "out" / "matches.csv").open() as file:
        rows = [(row["query_id"], row["reference_id"], float(row["score"])) for row in csv.DictReader(file)]
    assert all(query != reference for query, reference, _ in rows)
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)
    assert "cropped" in rows[0][:2]
    assert [score >= 0.5 for *_, score in rows].count(True) == 1


def test_edited_copies_of_own_photos_can_be_matched_and_calibrated_on(photos: Path, tmp_path: Path) -> None:
    references = photos / "references"
    made = copytrace(
        "edit-images", references, photos / "queries" / "stranger.png", "--out", tmp_path / "set", "--copies", "4",
        "--distractors", "2", "--difficulty", "mild",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    run = copytrace("match-images", tmp_path / "set" / "queries", references, "--out", tmp_path / "run", *QUICK)
    assert run.exit_code == 0, run.stderr
    fitted = tmp_path / "calibration.json"
    truth = tmp_path / "set" / "ground_truth.csv"
    assert copytrace("calibrate", tmp_path / "run", truth, "--out", fitted).exit_code == 0
    again = copytrace(
        "match-images", tmp_path / "set" / "queries", references, "--out", tmp_path / "run", *QUICK,
        f"merge.calibration={fitted}",
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    assert "describe" not in again.stderr
    measured = json.loads(copytrace("evaluate", "images", truth, tmp_path / "run" / "matches.csv", "--json").stdout)
    assert measured["overall"]["rank1"] >= 0.75


def test_calibrating_tells_of_copies_that_the_ground_truth_does_not_list(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    """Three of the four queries are copies, each of them a sure one."""
    complete = copytrace("calibrate", finished, photos / "truth.csv", "--out", tmp_path / "calibration.json")
    assert complete.exit_code == 0, complete.stderr
    assert complete.stderr == ""
    with (photos / "truth.csv").open() as file:
        (copy, reference), *listed = [tuple(row.values()) for row in csv.DictReader(file)]
    with (tmp_path / "partial.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("query_id", "reference_id"), (copy, ""), *listed])
    partial = copytrace("calibrate", finished, tmp_path / "partial.csv", "--out", tmp_path / "spoilt.json")
    assert partial.exit_code == 0, partial.stderr
    told = f"no ground truth lists but that score 0.5 or more: 1; the highest is {copy} with {reference}"
    assert told in partial.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["nowhere", "nowhere", "--out", "out", "--preset", "gpu"], "unknown preset 'gpu'"),
        (["nowhere", "nowhere", "--out", "out", "local.neighbors=3"], "there is no setting local.neighbors"),
        (["nowhere", "nowhere", "--out", "out", "local.neighbours=0"], "greater than or equal to 1"),
        (["nowhere", "nowhere", "--out", "out", "merge.calibration=absent.json"], "no calibration file"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_before_any_work(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copytrace("match-images", *arguments)
    assert run.exit_code == 1
    assert told in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_a_process_ends_with_code_1_and_one_line_as_the_command_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "copytrace", "match-images", "nowhere", "nowhere"]
    run = subprocess.run(
        [*command, "--out", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert "nowhere does not exist" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_index_of_another_model_is_refused_before_any_work(photos: Path, finished: Path, tmp_path: Path) -> None:
    index = finished / "work" / "references"
    other = ("descriptor.input_size=224", "descriptor.backend=torch")  # which needs no graph of its own
    run = copytrace("match-images", photos / "queries", index, "--out", tmp_path / "out", *other)
    assert run.exit_code == 1
    assert "at 256 px" in run.stderr
    assert "at 224 px" in run.stderr
    assert not (tmp_path / "out").exists()


def test_the_imgfp_preset_counts_matches(photos: Path, tmp_path: Path) -> None:
    run = copytrace(
        "match-images", photos / "queries", photos / "references", "--out", tmp_path / "out", "--preset", "imgfp"
    )
    assert run.exit_code == 0, run.stderr
    assert run.stderr.count("--preset imgfp runs without its EsViT") == 1
    with (tmp_path / "out" / "matches.csv").open() as file:
        scores = {row["query_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores["cropped"] > 34 > scores["stranger"]
