from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from configs.training import DescriptorTraining
from copytrace.errors import ConfigError
from copytrace.training.descriptor import train_descriptor
from copytrace.training.initial_descriptor import check_architecture, fit_pca_layer, initial_network
from copytrace.training.photos import PhotoSplit
from models.network_files import save_descriptor

Pixels = NDArray[np.uint8]
ARCHITECTURE = "test_efficientnet"
Settings = Callable[..., DescriptorTraining]

pytestmark = pytest.mark.usefixtures("one_thread")


def bare(architecture: str = ARCHITECTURE, *, classes: int = 0, seed: int = 5, **changes: Any) -> nn.Module:
    """A timm model as somebody else may have trained it."""
    torch.manual_seed(seed)
    network: nn.Module = timm.create_model(architecture, num_classes=classes, **changes)
    return network


def published(path: Path, network: nn.Module, **changes: torch.Tensor | None) -> str:
    """Its weights in a file, with some replaced, added, or (None) left out."""
    tensors = network.state_dict() | changes
    save_file({name: value.contiguous() for name, value in tensors.items() if value is not None}, path)
    return str(path)


def test_the_new_projection_is_the_pca_of_the_photos(split: PhotoSplit, settings_of: Settings) -> None:
    network = initial_network(settings_of(), split)
    assert network.projection.weight.shape == (16, 256)
    products = network.projection.weight @ network.projection.weight.T
    torch.testing.assert_close(products, torch.eye(16), atol=1e-4, rtol=0)


def test_a_pca_centres_turns_and_whitens() -> None:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((500, 3)) * [0.1, 2.0, 1.0] + [5.0, 6.0, 7.0]
    turned = torch.from_numpy(points.astype(np.float32))
    plain = fit_pca_layer(turned.numpy(), 2, whiten=False)(turned)
    torch.testing.assert_close(plain.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    np.testing.assert_allclose(plain.detach().std(dim=0), points[:, 1:].std(axis=0), rtol=0.01)
    assert abs(np.corrcoef(plain.detach()[:, 0], points[:, 1])[0, 1]) > 0.99
    whitened = fit_pca_layer(turned.numpy(), 2, whiten=True)(turned).detach()
    np.testing.assert_allclose(whitened.std(dim=0), [1.0, 1.0], atol=0.1)
    assert abs(np.corrcoef(whitened.T)[0, 1]) < 0.01


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_training_starts_from_weights_as_timm_publishes_them(
    architecture: str, split: PhotoSplit, tmp_path: Path, settings_of: Settings
) -> None:
    network = bare(architecture, classes=7)
    start = published(tmp_path / "model.safetensors", network)
    started = initial_network(settings_of(architecture=architecture, start=start), split)
    for name, value in started.backbone.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    assert not any("classifier" in name or "head.fc" in name for name in started.state_dict())
    torch.testing.assert_close(started.mean.flatten(), torch.tensor(network.pretrained_cfg["mean"]))
    torch.testing.assert_close(started.std.flatten(), torch.tensor(network.pretrained_cfg["std"]))
    assert not started.training


def test_weights_for_another_input_size_are_resampled_by_timm(
    split: PhotoSplit, tmp_path: Path, settings_of: Settings
) -> None:
    network = bare("test_vit", classes=7)
    start = published(tmp_path / "model.safetensors", network)
    settings = settings_of(architecture="test_vit", start=start, input_size=64, described_size=64)
    started = initial_network(settings, split)
    network.set_input_size(img_size=(64, 64))
    torch.testing.assert_close(started.backbone.pos_embed, network.pos_embed)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        (ARCHITECTURE, {"conv_stem.weight": None}, "it lacks conv_stem.weight; give weights made for it"),
        (ARCHITECTURE, {"extra.weight": torch.zeros(1)}, "it has extra.weight, unknown there"),
        (ARCHITECTURE, {"bn1.bias": torch.zeros(3)}, r"it has bn1.bias of shape \[3\] instead of \[24\]"),
        ("test_resnet", {}, r"does not fit test_resnet: it lacks .*\(and \d+ more\)"),
        ("test_convnext", {}, "does not fit test_convnext"),
        ("test_vit", {}, "does not fit test_vit"),
    ],
)
def test_weights_of_another_architecture_are_refused_in_one_line(
    architecture: str,
    changes: dict[str, torch.Tensor | None],
    message: str,
    split: PhotoSplit,
    tmp_path: Path,
    settings_of: Settings,
) -> None:
    start = published(tmp_path / "model.safetensors", bare(), **changes)
    settings = settings_of(architecture=architecture, start=start, input_size=48)
    with pytest.raises(ConfigError, match=message) as told:
        initial_network(settings, split)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "imagenet"}, "no ImageNet weights of test_efficientnet are packaged"),
        ({"start": "absent.safetensors"}, r"start: absent\.safetensors is not a whole safetensors file"),
        ({"dimensions": 300}, "test_efficientnet has 256 features; set dimensions to that or less"),
        (
            {"architecture": "test_vit", "input_size": 50, "described_size": 50},
            "test_vit cannot take input_size=50: Inp",
        ),
        (
            {"architecture": "test_maxvit", "input_size": 40, "described_size": 40},
            "test_maxvit cannot take input_size=40",
        ),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(
    changes: dict[str, Any], message: str, split: PhotoSplit, settings_of: Settings
) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        initial_network(settings_of(**changes), split)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "test_resnet"}, "holds a test_efficientnet; set architecture to that"),
        ({"dimensions": 24}, "projects to 16 dimensions, not 24; set dimensions"),
    ],
)
def test_an_earlier_file_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, split: PhotoSplit, tmp_path: Path, settings_of: Settings
) -> None:
    earlier = tmp_path / "descriptor.safetensors"
    save_descriptor(initial_network(settings_of(), split), earlier, architecture=ARCHITECTURE, input_size=48)
    with pytest.raises(ConfigError, match=message):
        initial_network(settings_of(start=str(earlier), **changes), split)


def test_the_whitening_of_an_earlier_file_is_left_off(split: PhotoSplit, tmp_path: Path, settings_of: Settings) -> None:
    network = initial_network(settings_of(), split)
    network.whitening = nn.Linear(16, 12)
    earlier = save_descriptor(network, tmp_path / "d.safetensors", architecture=ARCHITECTURE, input_size=48)
    started = initial_network(settings_of(start=str(earlier)), split)
    assert (started.whitening, started.dimensions) == (None, 16)


def test_a_model_of_another_kind_is_no_start(split: PhotoSplit, tmp_path: Path, settings_of: Settings) -> None:
    header = {"copytrace": json.dumps({"kind": "overlay", "format": 1})}
    save_file({"weight": torch.zeros(1)}, tmp_path / "overlay.safetensors", header)
    with pytest.raises(ConfigError, match="holds a model of kind 'overlay', not 'descriptor'"):
        initial_network(settings_of(start=str(tmp_path / "overlay.safetensors")), split)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("swin_tiny_patch4_window7_224", "takes one size only: set described_size=32, the input_size"),
        ("test_vit", "takes one size only"),
        ("resnet_of_tomorrow", "timm has no architecture resnet_of_tomorrow"),
    ],
)
def test_an_architecture_that_cannot_be_trained_so_is_refused_before_any_work(
    architecture: str, message: str, source: str, tmp_path: Path, settings_of: Settings
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_descriptor(source, tmp_path / "out", settings_of(architecture=architecture))
    assert not (tmp_path / "out").exists()


def test_an_architecture_of_one_size_is_fine_where_one_size_is_asked_for(settings_of: Settings) -> None:
    check_architecture(settings_of(architecture="test_vit", input_size=64, described_size=64))
