from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from copytrace.cli import app
from copytrace.training.training_result import read_result

Pixels = NDArray[np.uint8]
QUICK = [
    *("architecture=test_efficientnet", "start=random", "dimensions=16", "input_size=32", "described_size=32"),
    *("photos.validation_share=0.5", "photos.long_side=64", "photos.validation_copies=1", "memory=0"),
    *("loop.epochs=1", "loop.batch_size=2", "loop.workers=0", "loop.threads=1", "loop.device=cpu", "whitening=off"),
]


@pytest.fixture
def folder(tmp_path: Path, photos: Mapping[str, Pixels], write_photos: Callable[..., Path]) -> Path:
    pictures = {f"{name}{turn}": np.rot90(photo, turn) for name, photo in photos.items() for turn in range(2)}
    return write_photos(tmp_path / "photos", pictures)


def copytrace(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_training_tells_what_came_out_and_how_to_use_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = copytrace("train-descriptor", folder, "--out", out, *QUICK)
    assert result.exit_code == 0, result.stderr
    figure = read_result(out).metrics["micro_ap"]
    assert f"micro_ap {figure:.4f} after epoch 1, in 0 minutes" in result.stdout
    assert f"descriptor.model={out}" in result.stdout
    assert str(out / "README.md") in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train-descriptor", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["train-descriptor", "nowhere", "--out", "out", "--preset", "gpu"], "unknown preset 'gpu'"),
        (["train-descriptor", "nowhere", "--out", "out", "loop.epoch=3"], "there is no setting loop.epoch"),
        (["train-descriptor", "nowhere", "--out", "out", "loop.device=gpu"], "loop.device=gpu is no torch device"),
        (["train-descriptor", "nowhere", "--out", "out", "architecture=lite0"], "timm has no architecture lite0"),
        (["train-overlay-detector", "nowhere", "--out", "out", "views.mixup=0"], "there is no setting views"),
        (["calibrate", "run", "--out", "out"], "give pairs of a run's folder and its ground truth CSV"),
        (["train-aligner", "run", "--out", "out"], "give pairs of a match-videos folder and its ground truth CSV"),
        (["train-aligner", "run", "truth.csv", "--out", "out"], "run/work/queries is not a finished index"),
        (["train-aligner", "run", "truth.csv", "loop.epoch=3", "--out", "out"], "there is no setting loop.epoch"),
        (["train-aligner", "run", "truth.csv", "fold=5", "--out", "out"], "fold=5 does not exist among folds=5"),
        (
            ["train-pair-classifier", "run", "truth.csv", "backbone=light", "--out", "out"],
            "there is no setting backbone",
        ),
        (["train-pair-classifier", "run", "truth.csv", "./a=b", "--out", "out"], "give pairs of a match-videos folder"),
        (["video-stills", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["train-codebook", "nowhere", "--out", "out"], "nowhere does not exist"),
        (["train-codebook", "nowhere", "--out", "out", "cells=1"], "cells=1: input should be greater than or equal to"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = copytrace(*arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_too_few_photos_are_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    result = copytrace("train-descriptor", folder, "--out", tmp_path / "run", *QUICK, "loop.batch_size=64")
    assert result.exit_code == 1
    assert "examples are too few for one batch of 64; lower loop.batch_size" in result.stderr
    assert not (tmp_path / "run" / "result.json").exists()


def test_stills_of_videos_are_written_and_counted(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with av.open(str(tmp_path / "videos" / "one.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    (tmp_path / "videos" / "text.mp4").write_text("not a video")
    result = copytrace("video-stills", tmp_path / "videos", "--out", tmp_path / "stills", "--every", "0.5")
    assert result.exit_code == 0
    assert f"4 stills are in {tmp_path / 'stills'}" in result.stdout
    assert "text: no video, though its name ends in .mp4" in result.stderr
    (tmp_path / "videos" / "one.mp4").unlink()
    result = copytrace("video-stills", tmp_path / "videos", "--out", tmp_path / "stills")
    assert result.exit_code == 1
    assert "has no readable videos; give others" in result.stderr
