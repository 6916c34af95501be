"""Weights of networks that others trained: their files, and their tensors under the names of ours.

Nothing is unpickled but tensors and plain containers (`weights_only`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models.configs import ModelFileError, is_checkpoint, one_line
from models.misfits import first_of, misfits
from models.torchscript import is_torchscript

if TYPE_CHECKING:
    from models.configs import DescriptorConfig
    from models.descriptor import DescriptorNetwork

# Keys under which training scripts put the weights in a checkpoint.
_CONTAINERS = ("state_dict", "model", "teacher")
# Names of wrappers: where all tensors are inside of one, it says nothing.
_WRAPPERS = ("module", "backbone", "model")
# Buffers that the original Swin stores and timm computes.
_COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")
# Layers that DINO and EsViT use in their training alone.
_PRETRAINING = ("head.mlp.", "head.last_layer.", "head_dense.")
_STAGE_END = "layers.0.downsample.reduction.weight"  # the original Swin shrinks at the end of a stage, timm before it

# The parts of our network, under the names that others gave them: SSCD and VSC2022's winners, imgFp.
_PARTS = {
    "output_proj.": "projection.",
    "head.linear.": "projection.",
    "embeddings.0.conv.": "expansion.",
    "embeddings.1.": "projection.",
}
_OWN = ("backbone.", "projection.", "expansion.", "whitening.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: safetensors, or a file of `torch.save` that holds no other objects.

    The names are without the wrappers that all of them have in common, such as `module.`. Raises `ModelFileError` when
    the file is damaged, holds no tensors, or holds objects that only unpickling would restore.
    """
    loaded = _load(path)
    for key in _CONTAINERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)} if loaded else {}
    if not tensors:
        raise ModelFileError(f"{path} holds no named tensors; give the network's state dict")
    while (first := next(iter(tensors)).partition(".")[0]) in _WRAPPERS and all(
        name.startswith(f"{first}.") for name in tensors
    ):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if is_checkpoint(path) and is_torchscript(path):
        raise ModelFileError(
            f"{path} is TorchScript, and its state dict is needed: where you trust its maker, write it with "
            'torch.save(torch.jit.load(FILE, map_location="cpu").state_dict(), OUT); or, for a descriptor, give '
            "architecture: torchscript"
        )
    try:
        if is_safetensors:
            return safetensors.torch.load_file(path)
        # Mapped, so that what is not weights, such as an optimizer's state, takes no memory.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_checkpoint(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # torch's own text is a page, and advises to unpickle it
        found = f"objects such as {named[1]}" if named else "something else than tensors"
        raise ModelFileError(
            f"{path} holds {found}, and is not unpickled as that may run any code; where you trust its maker, save its "
            "state dict alone with torch.save, and give that file"
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read as a checkpoint: {one_line(error)}; copy it again") from error


def load_foreign_descriptor(config: DescriptorConfig) -> DescriptorNetwork:
    """Return the network of a spec (`storage` "state_dict") in float32 and eval mode, on the CPU.

    Raises `ModelFileError` when timm cannot build the architecture for the input size, or when the tensors do not fit.
    """
    from models.descriptor import DescriptorNetwork, resize_input, timm_backbone  # noqa: PLC0415

    tensors = name_tensors(read_state_dict(config.weights), config.architecture)
    try:
        backbone = timm_backbone(config.architecture, config.trained_size or config.input_size)
        network = DescriptorNetwork(
            backbone,
            mean=config.mean,
            std=config.std,
            gem_power=config.gem_power,
            pooling=config.pooling,
            projection=_linear(tensors, "projection"),
            whitening=_linear(tensors, "whitening"),
        )
        network.expansion = _linear(tensors, "expansion")
        fill_strictly(network, tensors, config.weights, config.architecture)
        _check_widths(network, config.weights)
        if config.trained_size not in {None, config.input_size}:
            resize_input(backbone, config.input_size)
    except ModelFileError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ModelFileError(
            f"{config.weights}: timm cannot build {config.architecture} for {config.input_size} pixels with pooling "
            f"{config.pooling}: {one_line(error)}; correct its spec, or input_size"
        ) from error
    return network.eval()


def _check_widths(network: DescriptorNetwork, path: Path) -> None:
    taken = network.projection.in_features if network.projection else network.pooled_dimensions
    if taken != network.pooled_dimensions:
        raise ModelFileError(
            f"{path}: its projection takes {taken:,} numbers, and pooling {network.pooled} gives "
            f"{network.pooled_dimensions:,}; give another pooling in its spec"
        )


def fill_strictly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Load `tensors` into `network`. Raises `ModelFileError`, which names the first that does not fit."""
    if wrong := misfits(network.state_dict(), tensors):
        raise ModelFileError(f"{path} does not fit {name}: it {first_of(wrong)}; give another architecture or file")
    network.load_state_dict(tensors)


def name_tensors(tensors: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names of `DescriptorNetwork`, without layers of pretraining.

    The backbone has timm's names or, if it is a Swin, the original ones.
    """
    classifier = getattr(timm.get_pretrained_cfg(architecture), "classifier", None) or ()
    classifiers = [classifier] if isinstance(classifier, str) else classifier
    unused = (*(f"{name}." for name in classifiers), *_PRETRAINING)
    shifted = _STAGE_END in tensors or f"backbone.{_STAGE_END}" in tensors
    named = {}
    for name, tensor in tensors.items():
        part = next((part for part in _PARTS if name.startswith(part)), None)
        if part:  # the expansion is a convolution of width 1 over tokens
            named[_PARTS[part] + name.removeprefix(part)] = tensor.squeeze(-1) if tensor.ndim == 3 else tensor
        elif not name.startswith(unused) and name.rpartition(".")[2] not in _COMPUTED:
            renamed = re.sub(r"layers\.(\d+)\.downsample", _next_stage, name) if shifted else name
            named[renamed if renamed.startswith(_OWN) else f"backbone.{renamed}"] = tensor
    return named


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _linear(tensors: Mapping[str, Tensor], name: str) -> nn.Linear | None:
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.ndim != 2:
        return None
    return nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)
