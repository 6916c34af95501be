"""A trained descriptor as one safetensors file: its tensors, and in the header how to build and feed the network."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open

from models.onnx_files import write_whole
from models.pretrained import DescriptorConfig, ModelFileError

if TYPE_CHECKING:
    import torch

    from models.descriptor import DescriptorNetwork

HEADER_KEY = "copytrace"
FORMAT: Literal[1] = 1  # raise it when files of the present format can no longer be read

Channels = tuple[float, float, float]
PositiveChannels = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class DescriptorHeader(BaseModel):
    """The JSON under the key "copytrace" of a descriptor's file; `DescriptorConfig` tells what its values mean."""

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
    name: str = "descriptor",
    half: bool = True,
    typical_noise: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write `network` atomically and return `path`.

    `architecture` is what its backbone was made by (see `timm_backbone`); `input_size` the side in pixels at which it
    describes: where weights depend on it, a copy made for that size is written. `typical_noise` is the mean cosine of
    an image to its nearest unrelated ones; `notes` is JSON for whoever reads the file. With `half`, filters and
    matrices are stored as float16; vectors such as biases and BatchNorm's statistics stay float32, as they are few and
    may leave float16's range. Raises `ValueError` for an architecture that timm does not know, and for weights that
    are not finite.
    """
    import safetensors.torch  # here and below, not above: reading a header must not import torch  # noqa: PLC0415
    import timm  # noqa: PLC0415

    from models.descriptor import is_resizable, resize_input  # noqa: PLC0415

    if not timm.is_model(architecture):
        raise ValueError(f"timm has no architecture {architecture!r}; give the name that the backbone was made by")
    if is_resizable(network.backbone):
        network = copy.deepcopy(network)
        resize_input(network.backbone, input_size)
    header = DescriptorHeader(
        name=name,
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
    tensors = {key: _stored(key, tensor, half) for key, tensor in network.state_dict().items()}
    write_whole(path, safetensors.torch.save(tensors, {HEADER_KEY: header.model_dump_json()}))
    return path


def read_config(path: Path, input_size: int | None = None) -> DescriptorConfig:
    """Return how to build and feed the descriptor that `path` holds, without reading its tensors or importing torch.

    `input_size` replaces the file's own. Raises `ModelFileError` when the file is no descriptor's, or is cut short.
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
    """Return the network that `path` holds, in float32 and eval mode, on the CPU.

    With an `input_size` other than the file's, timm resamples the position embeddings of architectures that have some.
    Raises `ModelFileError` when the file is no descriptor's, is cut short, holds other tensors than its architecture
    has, or cannot take `input_size`.
    """
    import safetensors.torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from models.descriptor import DescriptorNetwork, resize_input, timm_backbone  # noqa: PLC0415

    header = _descriptor_header(path)
    try:
        backbone = timm_backbone(header.architecture, header.input_size)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = f"timm cannot build {header.architecture} for {header.input_size} pixels: {_line(error)}"
        raise ModelFileError(f"{path}: {reason}; train it anew, or upgrade timm") from error
    tensors = safetensors.torch.load_file(path)

    def linear(name: str, wanted: bool) -> nn.Linear | None:
        if not wanted:
            return None
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise ModelFileError(f"{path} lacks {name}.weight; copy the file again, or train it anew")
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
            fixed = f"{header.architecture} was trained at {header.input_size} pixels and cannot take {input_size}"
            raise ModelFileError(f"{path}: {fixed}: {_line(error)}; leave input_size out") from error
    return network.eval()


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """Return the JSON that Copytrace keeps in the header of the safetensors file of a model of that `kind`.

    Raises `ModelFileError` when the file is absent, cut short, not safetensors, or of another kind or format.
    """
    cure = f"give a file that Copytrace's training of the {kind} wrote"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file: {_line(error)}; {cure}") from error
    try:
        header = json.loads(metadata[HEADER_KEY])
        found, version = header["kind"], header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is a safetensors file, but not one of Copytrace; {cure}") from error
    if found != kind:
        raise ModelFileError(f"{path} holds a model of kind {found!r}, not {kind!r}; {cure}")
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}, this version reads format {FORMAT}; upgrade copytrace")
    return dict(header)


def _descriptor_header(path: Path) -> DescriptorHeader:
    try:
        return DescriptorHeader.model_validate(read_header(path, "descriptor"))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ModelFileError(f"{path} has a damaged header ({wrong}); train it anew, or copy it again") from error


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
            f"{path} does not fit {header.architecture}: it {wrong[0]}{more}; copy the file again, or train it anew"
        )


def _stored(key: str, tensor: torch.Tensor, half: bool) -> torch.Tensor:
    stored = tensor.detach().cpu().contiguous()
    if not stored.is_floating_point():
        return stored
    if half and stored.ndim > 1:
        stored = stored.half()
    if not stored.isfinite().all():
        raise ValueError(f"{key} holds values that are not finite (as {stored.dtype}); it was not saved")
    return stored


def _channels(constants: torch.Tensor) -> Channels:
    red, green, blue = (round(value, 6) for value in constants.flatten().tolist())  # 0.485, not 0.48500001430511475
    return red, green, blue


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
