"""Start of a training: its device, its pretrained weights, and the layers that stay as they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from configs.training import LoopSettings
from copytrace.errors import ConfigError
from copytrace.model_sources import ModelKind, resolve_model
from copytrace.storage import is_uri
from copytrace.training.distributed import rank
from models.configs import DescriptorConfig, efficientnet_lite0

MAY_CHANGE = {"workers", "checkpoint_minutes", "threads", "device", "validate_every"}
"""Loop settings that may change when a run continues: they decide its speed and not its weights."""

_BODIES = ("blocks", "layers", "stages")  # names in timm of a backbone's sequence of blocks


def training_device(settings: LoopSettings) -> torch.device:
    """Return the device to train on: that of the settings, else this process's GPU, else the CPU.

    Raises `ConfigError` for a device that this machine does not have.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Without a number, "cuda" is a GPU for each process: NCCL refuses two on one.
    if settings.device and not (gpus and settings.device == "cuda"):
        return _device_by_name(settings.device, gpus)
    if not gpus:
        return torch.device("cpu")
    if settings.devices > gpus:
        raise ConfigError(f"loop.devices={settings.devices}, but this machine has {gpus} GPUs; set it to that")
    torch.cuda.set_device(rank())  # NCCL uses the current device
    return torch.device("cuda", rank())


def _device_by_name(name: str, gpus: int) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"loop.device={name} is no torch device; give cpu, cuda or cuda:1, for instance") from error
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"loop.device={name}, but torch finds {gpus} GPUs here; set it to cpu, or leave it out")
    return device


def resolve_start(start: str, kind: ModelKind) -> Path:
    """Return the local file of the setting `start`: a path as it is, a URI as `resolve_model` downloads it."""
    return resolve_model(start, kind) if is_uri(start) else Path(start)


def packaged_weights(architecture: str, input_size: int) -> DescriptorConfig:
    """Return the packaged ImageNet weights of an architecture. Raises `ConfigError` if there are none."""
    packaged = efficientnet_lite0(input_size)
    if architecture != packaged.architecture:
        raise ConfigError(
            f"no ImageNet weights of {architecture} are packaged; give start=FILE.safetensors, start=random, or "
            f"architecture={packaged.architecture}"
        )
    return packaged


def freeze(backbone: nn.Module, blocks: int) -> None:
    """Freeze the stem and the first `blocks` blocks of a timm backbone; 0 freezes nothing.

    Raises `ConfigError` for a backbone with fewer blocks.
    """
    if not blocks:
        return
    children = dict(backbone.named_children())
    name = next((name for name in _BODIES if name in children), "")
    body = list(children[name].children()) if name else []
    if len(body) < blocks:
        raise ConfigError(
            f"the backbone has {len(body)} blocks, fewer than the {blocks} to freeze; set frozen_blocks to 0"
        )
    stem = list(children.values())[: list(children).index(name)]
    for part in (*stem, *body[:blocks]):
        part.requires_grad_(False)
