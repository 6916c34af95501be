from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from copytrace.errors import ConfigError
from copytrace.features.descriptor_sources import descriptor_state
from copytrace.features.descriptors import load_descriptor
from copytrace.features.resize import resize_for_descriptor
from models.descriptor import timm_backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")

SPEC = {
    "weights": "network.pth",
    "architecture": "test_vit",
    "input_size": 64,
    "interpolation": "bicubic",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.5, 0.25, 0.5],
}


class MeanColor(torch.nn.Module):
    """A network whose vectors are known: the mean of each normalized channel."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))


def write_spec(folder: Path, name: str = "network.yaml", **changes: Any) -> str:
    (folder / name).write_text(yaml.safe_dump(SPEC | changes))
    return str(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(timm_backbone("test_vit", 64).state_dict(), tmp_path / "network.pth")
    return tmp_path


def load(spec: str, **settings: Any) -> Any:
    return load_descriptor(spec, backend="torch", device="cpu", **settings)


def test_torchscript_gets_the_size_filter_mean_and_deviation_of_its_spec(tmp_path: Path):
    torch.jit.script(MeanColor()).save(str(tmp_path / "mean.pt"))
    found = load(write_spec(tmp_path, weights="mean.pt", architecture="torchscript"), trust_torchscript=True)
    frame = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    picture = found.resize(frame)
    np.testing.assert_array_equal(picture, resize_for_descriptor(frame, 64, "bicubic"))
    means = (picture.mean(axis=(0, 1)) / 255 - SPEC["mean"]) / SPEC["std"]
    np.testing.assert_allclose(found.describe(picture[None])[0], means / np.linalg.norm(means), atol=1e-5)


def test_torchscript_of_a_spec_is_refused_too_unless_it_is_trusted(tmp_path: Path):
    torch.jit.script(MeanColor()).save(str(tmp_path / "mean.pt"))
    with pytest.raises(ConfigError, match=r"mean.pt is TorchScript, a program"):
        load(write_spec(tmp_path, weights="mean.pt", architecture="torchscript"))


def test_a_state_dict_is_described_by_what_its_spec_says(folder: Path):
    found = load(write_spec(folder))
    assert (found.name, found.dimensions, found.input_size, found.interpolation) == ("network", 64, 64, "bicubic")


def test_a_vector_belongs_to_all_values_of_a_spec_and_to_its_weights(folder: Path):
    digests = {load(write_spec(folder)).digest}
    for change in ({"interpolation": "area"}, {"mean": [0.5] * 3}, {"pooling": "all_tokens"}):
        digests.add(load(write_spec(folder, **change)).digest)
    digests.add(load(write_spec(folder), input_size=96).digest)
    before = descriptor_state(write_spec(folder))
    torch.save(timm_backbone("test_vit", 64).state_dict(), folder / "network.pth")
    assert descriptor_state(write_spec(folder)) != before
    assert load(write_spec(folder)).digest not in digests
    assert len(digests) == 5


def test_weights_may_lie_elsewhere_and_are_downloaded_from_beside_their_spec(folder: Path, monkeypatch):
    monkeypatch.setenv("COPYTRACE_CACHE", str(folder / "cache"))
    digest = load(write_spec(folder)).digest
    (folder / "other").mkdir()
    assert load(write_spec(folder / "other", weights=str(folder / "network.pth"))).digest == digest
    assert load(f"local://{write_spec(folder)}").digest == digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "gone.pth"}, r"no descriptor model at '.*gone.pth'"),
        ({"interpolation": "nearest"}, "interpolation: input should be 'area' or 'bicubic'"),
        ({"size": 64}, "size: extra inputs are not permitted; its values are weights, architecture, input_size"),
        ({"input_size": 30}, "input_size: input should be greater than or equal to 32"),
        ({"architecture": "test_efficientnet"}, "network.pth does not fit test_efficientnet: it lacks backbone"),
    ],
)
def test_a_wrong_spec_is_told_with_its_value(folder: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        load(write_spec(folder, **changes))
