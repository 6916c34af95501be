"""Networks as safetensors files: each is written whole, and loaded in float32 and eval mode on the CPU.

The header has the network's kind, format and configuration; `configs` reads it without torch.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.atomic_file import write_atomically
from models.configs import (
    FORMAT,
    HEADER_KEY,
    Channels,
    DescriptorHeader,
    Interpolation,
    ModelFileError,
    one_line,
    read_aligner_config,
    read_descriptor_header,
    read_overlay_config,
    read_pair_config,
)
from models.misfits import first_of, misfits

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.aligner_network import HrnetAligner, LightAligner
    from models.descriptor import DescriptorNetwork
    from models.overlay_network import OverlayNetwork
    from models.pair_network import PairNetwork


def save_descriptor(
    network: DescriptorNetwork,
    path: Path,
    *,
    architecture: str,
    input_size: int,
    interpolation: Interpolation = "area",
    typical_noise: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write `network` atomically and return `path`.

    `architecture` is the name that its backbone was built by (see `timm_backbone`). `input_size` is the side in pixels
    of the images to describe; if the weights depend on it, they are first resampled for that size. `interpolation` is
    that of `resize_for_descriptor`, `typical_noise` the mean cosine of an image to its nearest unrelated ones. `notes`
    is JSON for the readers of the file. Matrices are stored in half precision. Raises `ValueError` for an architecture
    that timm does not know, and for weights that are not finite.
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
        interpolation=interpolation,
        pooling=network.pooled,
        expansion=network.expansion is not None,
        projection=network.projection is not None,
        whitening=network.whitening is not None,
        typical_noise=typical_noise,
        notes=dict(notes or {}),
    )
    tensors = stored_tensors(network)
    return write_atomically(path, safetensors.torch.save(tensors, {HEADER_KEY: header.model_dump_json()}))


def load_descriptor_file(path: Path, input_size: int | None = None) -> DescriptorNetwork:
    """Return the network in `path`, in float32 and eval mode, on the CPU.

    With an `input_size` other than the file's, timm resamples the position embeddings of architectures that have some.
    Raises `ModelFileError` when the file is not a descriptor's, is cut short, holds other tensors than its architecture
    has, or cannot take `input_size`.
    """
    import safetensors.torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from models.descriptor import DescriptorNetwork, resize_input, timm_backbone  # noqa: PLC0415

    header = read_descriptor_header(path)
    tensors = safetensors.torch.load_file(path)

    def linear(name: str, wanted: bool) -> nn.Linear | None:
        if not wanted:
            return None
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise ModelFileError(f"{path} lacks {name}.weight; copy the file again, or train it again")
        return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)

    expansion, projection = linear("expansion", header.expansion), linear("projection", header.projection)
    whitening = linear("whitening", header.whitening)
    try:
        backbone = timm_backbone(header.architecture, header.input_size)
        network = DescriptorNetwork(
            backbone,
            mean=header.mean,
            std=header.std,
            gem_power=header.gem_power,
            pooling=header.pooling,
            projection=projection,
            whitening=whitening,
        )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = f"timm cannot build {header.architecture} for {header.input_size} pixels: {one_line(error)}"
        raise ModelFileError(f"{path}: {reason}; train it again, or upgrade timm") from error
    network.expansion = expansion
    _check_tensors(path, header, tensors, network)
    network.load_state_dict(tensors)
    if input_size not in {None, header.input_size}:
        try:
            resize_input(backbone, input_size)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = f"{header.architecture} was trained at {header.input_size} pixels and cannot take {input_size}"
            raise ModelFileError(f"{path}: {reason}: {one_line(error)}; leave input_size out") from error
    return network.eval()


def save_overlay(network: OverlayNetwork, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` as `save_network` does, and return `path`."""
    return save_network(network, path, "overlay", asdict(network.config), notes)


def load_overlay(path: Path, *, partly: bool = False) -> OverlayNetwork:
    """Return the network that `save_overlay` wrote, float32, in eval mode, on the CPU.

    With `partly`, layers that the file lacks, or has in another shape, keep their random weights. Raises
    `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.overlay_network import build_overlay  # noqa: PLC0415

    try:
        network = build_overlay(read_overlay_config(path))
    except ModelFileError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}, or upgrade timm") from error
    fill_network(network, path, network.config.architecture, partly=partly)
    return network.eval()


def save_aligner(network: LightAligner | HrnetAligner, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`; see `save_network`."""
    return save_network(network, path, "aligner", {"backbone": network.config.backbone}, notes)


def load_aligner_network(path: Path) -> LightAligner | HrnetAligner:
    """Return the network that `save_aligner` wrote, or of published weights, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.aligner_network import (  # here: a header must not import torch  # noqa: PLC0415
        HrnetAligner,
        build_aligner_network,
    )

    config = read_aligner_config(path)
    network = build_aligner_network(config)
    if isinstance(network, HrnetAligner) and config.published:
        from models.published_alignment import fill_aligner  # noqa: PLC0415

        return fill_aligner(network, path)
    fill_network(network, path, config.backbone)
    return network.eval()


def save_pair_classifier(network: PairNetwork, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`; see `save_network`."""
    return save_network(network, path, "pair-classifier", {"architecture": network.config.architecture}, notes)


def load_pair_classifier(path: Path) -> PairNetwork:
    """Return the network that `save_pair_classifier` wrote, or of published weights, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.pair_network import build_pair_classifier  # here: a header must not import torch  # noqa: PLC0415

    config = read_pair_config(path)
    if config.published:
        from models.published_alignment import load_published_classifier  # noqa: PLC0415

        return load_published_classifier(config, path)
    try:
        network = build_pair_classifier(config.architecture)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}, or upgrade timm") from error
    fill_network(network, path, config.architecture)
    return network.eval()


def save_network(
    network: nn.Module, path: Path, kind: str, config: Mapping[str, Any], notes: Mapping[str, Any] | None = None
) -> Path:
    """Write `network` atomically and return `path`: filters and matrices as float16, vectors as float32.

    `config` is what `read_header(path, kind)` returns later; `notes` is JSON for the readers of the file. Raises
    `ValueError` for weights that are not finite.
    """
    import safetensors.torch  # here and below: reading a header must not import torch  # noqa: PLC0415

    header = {"kind": kind, "format": FORMAT, **config, "notes": dict(notes or {})}
    content = safetensors.torch.save(stored_tensors(network), {HEADER_KEY: json.dumps(header, sort_keys=True)})
    return write_atomically(path, content)


def fill_network(network: nn.Module, path: Path, name: str, *, partly: bool = False) -> None:
    """Load the tensors of a file into `network`, which an error calls `name`.

    With `partly`, tensors that the file lacks, or has in another shape, stay as they are. Raises `ModelFileError` when
    the file holds the tensors of another network.
    """
    import safetensors.torch  # noqa: PLC0415

    tensors = safetensors.torch.load_file(path)
    if partly:
        own = network.state_dict()
        tensors = {key: tensors[key] if _fits(tensors.get(key), own[key]) else own[key] for key in own}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(f"{path} does not fit {name}: {one_line(error)}; train it again") from error


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `network` for its file: filters and matrices as float16.

    Vectors such as biases and BatchNorm's statistics stay float32, as they are few and may exceed float16's range.
    Raises `ValueError` for weights that are not finite.
    """
    return {name: _stored(name, tensor) for name, tensor in network.state_dict().items()}


def _check_tensors(
    path: Path, header: DescriptorHeader, tensors: Mapping[str, torch.Tensor], network: DescriptorNetwork
) -> None:
    wrong = misfits(network.state_dict(), tensors)
    if header.dimensions != network.dimensions:
        wrong.append(f"gives {network.dimensions} dimensions instead of {header.dimensions}")
    if network.projection is not None and network.projection.in_features != network.pooled_dimensions:
        taken, given = network.projection.in_features, network.pooled_dimensions
        wrong.append(f"projects {taken:,} numbers, of which pooling {header.pooling} gives {given:,}")
    if wrong:
        raise ModelFileError(
            f"{path} does not fit {header.architecture}: it {first_of(wrong)}; copy the file again, or train it again"
        )


def _channels(constants: torch.Tensor) -> Channels:
    red, green, blue = (round(value, 6) for value in constants.flatten().tolist())  # 0.485, not 0.48500001430511475
    return red, green, blue


def _fits(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.shape == own.shape


def _stored(name: str, tensor: Tensor) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    if not stored.is_floating_point():
        return stored
    if stored.ndim > 1:
        stored = stored.half()
    if not bool(stored.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite (as {stored.dtype}); it was not saved")
    return stored
