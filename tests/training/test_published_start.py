from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from configs.training import DescriptorTraining
from copytrace.errors import ConfigError
from copytrace.features.descriptor_sources import descriptor_config
from copytrace.features.descriptors import load_descriptor
from copytrace.training.descriptor import train_descriptor
from copytrace.training.descriptor_validation import ValidationSet, describe
from copytrace.training.initial_descriptor import initial_network
from copytrace.training.photos import PhotoSplit
from models.configs import IMAGENET_MEAN, IMAGENET_STD
from models.descriptor import DescriptorNetwork, timm_backbone
from models.foreign_weights import load_foreign_descriptor
from tests.tiny_swin import TINY_SWIN, original_names

Settings = Callable[..., DescriptorTraining]

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 64
LAST_FOUR = 32 + 32 + 64 + 64
LIKE_IMGFP = {
    "architecture": TINY_SWIN,
    "pooling": "last_blocks",
    "interpolation": "bicubic",
    "input_size": SIZE,
    "described_size": SIZE,
    "loss": "margin",
    "entropy_weight": 0,
    "frozen_blocks": 0,
    "whitening": "off",
    "views": {"negatives": 2, "mixup": 0},
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec of weights under imgFp's names: the original Swin's, and a head on the last four blocks."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    backbone, head = timm_backbone(TINY_SWIN, SIZE), nn.Linear(LAST_FOUR, 16)
    tensors = original_names(backbone) | {f"head.linear.{name}": value for name, value in head.state_dict().items()}
    torch.save({"epoch": 200, "model": tensors}, folder / "imgfp.pth")
    torch.save({"teacher": original_names(backbone)}, folder / "esvit.pth")
    for name in ("imgfp", "esvit"):
        write_spec(folder / f"{name}.yaml", weights=f"{name}.pth")
    return folder / "imgfp.yaml"


def write_spec(path: Path, **changes: Any) -> Path:
    values = {"architecture": TINY_SWIN, "pooling": "last_blocks", "input_size": SIZE, "interpolation": "bicubic"}
    path.write_text(yaml.safe_dump(values | {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)} | changes))
    return path


@pytest.fixture(scope="module")
def pairs(split: PhotoSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled pairs: the middle of each photo to learn from, and the photo."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = ["query,reference"]
    for number, photo in enumerate(split.train):
        with Image.open(photo.path) as image:
            image.crop((20, 10, 120, 80)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{photo.path}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def test_training_starts_as_the_network_that_matching_loads_of_the_same_spec(
    spec: Path, split: PhotoSplit, validation: ValidationSet, settings_of: Settings
) -> None:
    started = initial_network(settings_of(**LIKE_IMGFP, start=str(spec)), split)
    loaded = load_foreign_descriptor(descriptor_config(str(spec)))
    assert started.state_dict().keys() == loaded.state_dict().keys()
    pictures = validation.copies[:, :SIZE, :SIZE].repeat(2, axis=1).repeat(2, axis=2)[:, :SIZE, :SIZE]
    np.testing.assert_array_equal(describe(started, pictures), describe(loaded, pictures))


def test_a_backbone_without_a_head_gets_the_pca_of_the_photos(
    spec: Path, split: PhotoSplit, settings_of: Settings
) -> None:
    started = initial_network(settings_of(**LIKE_IMGFP, start=str(spec.with_name("esvit.yaml"))), split)
    assert started.projection is not None
    assert started.projection.weight.shape == (16, LAST_FOUR)
    products = started.projection.weight @ started.projection.weight.T
    torch.testing.assert_close(products, torch.eye(16), atol=1e-4, rtol=0)


def test_fine_tuning_on_pairs_moves_head_and_blocks_and_its_file_describes_as_the_network_does(
    spec: Path, pairs: Path, source: str, validation: ValidationSet, split: PhotoSplit, tmp_path: Path, settings_of: Any
) -> None:
    settings = settings_of(**LIKE_IMGFP, start=str(spec), pairs=str(pairs), loop={"epochs": 3, "backbone_rate": 1.0})
    before = initial_network(settings, split).state_dict()
    told: list[float] = []
    train_descriptor(source, tmp_path / "out", settings, LossLog(told))
    best = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["position"]["best"]["network"]
    moved = {name for name, value in before.items() if not torch.equal(best[name], value)}
    blocks = [f"backbone.layers.{stage}.blocks.{block}.mlp.fc1.weight" for stage in (2, 3) for block in (0, 1)]
    assert {"projection.weight", "backbone.patch_embed.proj.weight", *blocks} <= moved
    assert told[-1] < told[0]

    kept = DescriptorNetwork(
        timm_backbone(TINY_SWIN, SIZE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        pooling="last_blocks",
        projection=nn.Linear(LAST_FOUR, 16),
    ).eval()
    kept.load_state_dict(best)
    found = load_descriptor(str(tmp_path / "out"), backend="torch", device="cpu")
    assert (found.dimensions, found.input_size, found.interpolation) == (16, SIZE, "bicubic")
    pictures = np.stack([found.resize(picture) for picture in validation.copies])
    np.testing.assert_allclose(found.describe(pictures), describe(kept, pictures), atol=3e-3)
    continued = initial_network(settings_of(**LIKE_IMGFP, start=str(tmp_path / "out/descriptor.safetensors")), split)
    assert continued.pooled == "last_blocks"


class LossLog:
    """Keeps the loss of each epoch."""

    def __init__(self, told: list[float]) -> None:
        self.told = told

    def metrics(self, values: Any, epoch: int) -> None:
        self.told.append(values["loss"])

    def picture(self, name: str, pixels: Any, epoch: int) -> None:
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "gem"}, r"imgfp\.yaml has pooling last_blocks; set pooling=last_blocks"),
        ({"interpolation": "area"}, "resized by bicubic; set interpolation=bicubic"),
        ({"architecture": "test_efficientnet"}, "holds a tiny_swin; set architecture to that"),
        ({"dimensions": 24}, "projects to 16 dimensions, not 24; set dimensions"),
        ({"start": "random", "architecture": "test_efficientnet"}, "pooling last_blocks is for Swin transformers"),
        (
            {"start": "imagenet", "architecture": "tf_efficientnet_lite0"},
            "pooling=last_blocks is for transformers; set architecture or pooling=gem",
        ),
    ],
)
def test_settings_of_another_network_than_the_start_are_refused(
    changes: dict[str, Any], message: str, spec: Path, split: PhotoSplit, settings_of: Settings
) -> None:
    with pytest.raises(ConfigError, match=message):
        initial_network(settings_of(**{**LIKE_IMGFP, "start": str(spec), **changes}), split)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "torchscript"}, "names TorchScript, which cannot be trained; give its state dict"),
        ({"weights": "text.pth"}, r"start: .*text\.pth holds something else than tensors"),
        ({"input_size": "large"}, r"start: .*other\.yaml is no spec of a descriptor"),
    ],
)
def test_a_spec_that_cannot_be_trained_is_refused(
    changes: dict[str, Any], message: str, spec: Path, split: PhotoSplit, tmp_path: Path, settings_of: Settings
) -> None:
    (tmp_path / "text.pth").write_text("no checkpoint")
    weights = {"weights": str(spec.with_name("imgfp.pth"))}
    other = write_spec(tmp_path / "other.yaml", **(weights | changes))
    with pytest.raises(ConfigError, match=message):
        initial_network(settings_of(**LIKE_IMGFP, start=str(other)), split)
