"""Detectors of edited videos: a file of probabilities, and the two published networks as TorchScript."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from copytrace.errors import ConfigError
from copytrace.features.editing import load_editing_detector


class Tokens(nn.Module):
    """Two tokens of a picture: its mean red, green and blue, and one that does not count."""

    def forward(self, pixels: Tensor) -> Tensor:
        first = pixels.mean(dim=(2, 3))
        return torch.stack([first, torch.ones_like(first)], dim=1)


class Sum(nn.Module):
    """The sum of the red of all frames of a video, which must be padded to four."""

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == 4
        return tokens[:, :, 0].sum(dim=1)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    for name, network in (("clip.pt", Tokens()), ("vsm.pt", Sum())):
        torch.jit.script(network).save(str(tmp_path / name))
    path = tmp_path / "editing.yaml"
    path.write_text(
        "{frames: clip.pt, video: vsm.pt, input_size: 32, most_frames: 4, mean: [0.5, 0, 0], std: [0.5, 1, 1]}"
    )
    return path


def test_the_logit_is_that_of_the_first_tokens_of_the_middle_of_the_first_frames(spec: Path) -> None:
    detector = load_editing_detector(str(spec), device="cpu", trust_torchscript=True)
    frame = np.zeros((40, 120, 3), np.uint8)
    frame[:, 40:80, 0] = 255  # the middle square is red, which is 1 when normalized
    for count, logit in ((0, np.inf), (2, 2.0), (9, 4.0)):
        found = detector.probability("video", iter([frame] * count))
        assert found == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.02)
    gray = np.full((40, 120, 3), 127, np.uint8)
    assert detector.probability("video", [gray]) == pytest.approx(0.5, abs=0.01)
    assert len(detector.digest) == 16


def test_programs_are_run_only_if_they_are_trusted(spec: Path) -> None:
    with pytest.raises(ConfigError, match=r"if you trust its maker, set descriptor\.trust_torchscript=true"):
        load_editing_detector(str(spec), device="cpu", trust_torchscript=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [("{frames: clip.pt, video: none.pt}", "none.pt"), ("{frames: clip.pt}", "video"), ("[", "YAML|parsing|expected")],
)
def test_a_spec_that_cannot_be_used_is_told(content: str, told: str, spec: Path) -> None:
    spec.write_text(content)
    with pytest.raises(ConfigError, match=rf"editing\.yaml: .*({told})"):
        load_editing_detector(str(spec), device="cpu", trust_torchscript=True)


def test_videos_that_a_file_lacks_count_as_edited(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("video_id,probability\nQ100001,0.0004\n")
    detector = load_editing_detector(str(tmp_path / "scores.csv"), device=None, trust_torchscript=False)
    assert [detector.probability(video, ()) for video in ("Q100001", "Q100002")] == [0.0004, 1.0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,p\nQ1,0.1\n", "needs the columns id,probability"),
        ("id,probability\nQ1,1.5\n", "row 2: the probability '1.5'"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_editing_detector(str(tmp_path / "scores.csv"), device=None, trust_torchscript=False)
