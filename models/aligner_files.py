"""An aligner's network as one safetensors file: its tensors, and in the header how to build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.configs import AlignerConfig
from models.network_files import fill_network, read_header, save_network
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from models.aligner_network import HrnetAligner, LightAligner

KIND = "aligner"


def save_aligner(network: LightAligner | HrnetAligner, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`; see `save_network`."""
    return save_network(network, path, KIND, asdict(network.config), notes)


def load_aligner_network(path: Path) -> LightAligner | HrnetAligner:
    """Return the network that `save_aligner` wrote, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.aligner_network import build_aligner_network  # here: a header must not import torch  # noqa: PLC0415

    config = read_aligner_config(path)
    network = build_aligner_network(config)
    fill_network(network, path, config.backbone)
    return network.eval()


def read_aligner_config(path: Path) -> AlignerConfig:
    """Return the configuration in the header of an aligner's file. Raises as `load_aligner_network` does."""
    header = read_header(path, KIND)
    try:
        return AlignerConfig(backbone=header["backbone"])
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path} has a damaged header ({error}); copy the file again, or train it again"
        ) from error
