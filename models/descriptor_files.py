"""A trained descriptor as one safetensors file: its tensors, and in the header how to build and feed the network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError

from models.atomic_file import write_atomically
from models.network_files import FORMAT, HEADER_KEY, one_line, read_header, stored_tensors
from models.pretrained import DescriptorConfig, ModelFileError

if TYPE_CHECKING:
    import torch

    from models.descriptor import DescriptorNetwork

Channels = tuple[float, float, float]
PositiveChannels = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


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
    interpolation: Literal["area"] = "area"
    projection: bool
    whitening: bool
    typical_noise: float | None = None
    notes: dict[str, Any] = Field(default_factory=dict)


def save_descriptor(
    network: DescriptorNetwork,
    path: Path,
    *,
    architecture: str,
    input_size: int,
    half: bool = True,
    typical_noise: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write `network` atomically and return `path`.

    `architecture` is the name that its backbone was built by (see `timm_backbone`). `input_size` is the side in pixels
    of the images to describe; if the weights depend on it, they are first resampled for that size. `typical_noise` is
    the mean cosine of an image to its nearest unrelated ones. `notes` is JSON for the readers of the file. `half` is
    that of `stored_tensors`. Raises `ValueError` for an architecture that timm does not know, and for weights that are
    not finite.
    """
    import safetensors.torch  # here and below: reading a header must not import torch  # noqa: PLC0415
    import timm  # noqa: PLC0415

    from models.descriptor import is_resizable, resize_input  # noqa: PLC0415

    if not timm.is_model(architecture):
        raise ValueError(f"timm has no architecture {architecture!r}; give the name that the backbone was built by")
    if is_resizable(network.backbone):
        network = copy.deepcopy(network)
        resize_input(network.backbone, input_size)
    header = DescriptorHeader(
        architecture=architecture,
        dimensions=network.dimensions,
        input_size=input_size,
        mean=_channels(network.mean),
        std=_channels(network.std),
        gem_power=network.pooling.power,
        projection=network.projection is not None,
        whitening=network.whitening is not None,
        typical_noise=typical_noise,
        notes=dict(notes or {}),
    )
    tensors = stored_tensors(network, half=half)
    return write_atomically(path, safetensors.torch.save(tensors, {HEADER_KEY: header.model_dump_json()}))


def read_config(path: Path, input_size: int | None = None) -> DescriptorConfig:
    """Return the configuration of the descriptor in `path`, without reading its tensors or importing torch.

    `input_size` replaces the file's own. Raises `ModelFileError` when the file is not a descriptor's, or is cut short.
    """
    header = _descriptor_header(path)
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
    )


def load_descriptor_file(path: Path, input_size: int | None = None) -> DescriptorNetwork:
    """Return the network in `path`, in float32 and eval mode, on the CPU.

    With an `input_size` other than the file's, timm resamples the position embeddings of architectures that have some.
    Raises `ModelFileError` when the file is not a descriptor's, is cut short, holds other tensors than its architecture
    has, or cannot take `input_size`.
    """
    import safetensors.torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from models.descriptor import DescriptorNetwork, resize_input, timm_backbone  # noqa: PLC0415

    header = _descriptor_header(path)
    try:
        backbone = timm_backbone(header.architecture, header.input_size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = f"timm cannot build {header.architecture} for {header.input_size} pixels: {one_line(error)}"
        raise ModelFileError(f"{path}: {reason}; train it again, or upgrade timm") from error
    tensors = safetensors.torch.load_file(path)

    def linear(name: str, wanted: bool) -> nn.Linear | None:
        if not wanted:
            return None
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise ModelFileError(f"{path} lacks {name}.weight; copy the file again, or train it again")
        return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)

    network = DescriptorNetwork(
        backbone,
        mean=header.mean,
        std=header.std,
        gem_power=header.gem_power,
        projection=linear("projection", header.projection),
        whitening=linear("whitening", header.whitening),
    )
    _check_tensors(path, header, tensors, network)
    network.load_state_dict(tensors)
    if input_size not in {None, header.input_size}:
        try:
            resize_input(backbone, input_size)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = f"{header.architecture} was trained at {header.input_size} pixels and cannot take {input_size}"
            raise ModelFileError(f"{path}: {reason}: {one_line(error)}; leave input_size out") from error
    return network.eval()


def _descriptor_header(path: Path) -> DescriptorHeader:
    try:
        return DescriptorHeader.model_validate(read_header(path, "descriptor"))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ModelFileError(
            f"{path} has a damaged header ({wrong}); copy the file again, or train it again"
        ) from error


def _check_tensors(
    path: Path, header: DescriptorHeader, tensors: Mapping[str, torch.Tensor], network: DescriptorNetwork
) -> None:
    expected = network.state_dict()
    wrong = [
        *(f"lacks {key}" for key in sorted(expected.keys() - tensors.keys())),
        *(f"has {key}, unknown there" for key in sorted(tensors.keys() - expected.keys())),
        *(
            f"has {key} of shape {list(tensors[key].shape)} instead of {list(expected[key].shape)}"
            for key in sorted(expected.keys() & tensors.keys())
            if tensors[key].shape != expected[key].shape
        ),
    ]
    if header.dimensions != network.dimensions:
        wrong.append(f"gives {network.dimensions} dimensions instead of {header.dimensions}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ModelFileError(
            f"{path} does not fit {header.architecture}: it {wrong[0]}{more}; copy the file again, or train it again"
        )


def _channels(constants: torch.Tensor) -> Channels:
    red, green, blue = (round(value, 6) for value in constants.flatten().tolist())  # 0.485, not 0.48500001430511475
    return red, green, blue
