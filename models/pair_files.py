"""A pair classifier as one safetensors file: its tensors, and in the header how to build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.configs import PairConfig
from models.network_files import fill_network, read_header, save_network
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from models.pair_network import PairNetwork

KIND = "pair-classifier"


def save_pair_classifier(network: PairNetwork, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`; see `save_network`."""
    return save_network(network, path, KIND, asdict(network.config), notes)


def load_pair_classifier(path: Path) -> PairNetwork:
    """Return the network that `save_pair_classifier` wrote, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.pair_network import build_pair_classifier  # here: a header must not import torch  # noqa: PLC0415

    config = read_pair_config(path)
    try:
        network = build_pair_classifier(config.architecture)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}, or upgrade timm") from error
    fill_network(network, path, config.architecture)
    return network.eval()


def read_pair_config(path: Path) -> PairConfig:
    """Return the configuration in the header of a classifier's file. Raises as `load_pair_classifier` does."""
    header = read_header(path, KIND)
    try:
        return PairConfig(architecture=str(header["architecture"]))
    except KeyError as error:
        raise ModelFileError(
            f"{path} has a damaged header (no {error}); copy the file again, or train it again"
        ) from error


def read_threshold(path: Path) -> float:
    """Return the probability below which pairs are dropped, from the notes of the training; 0 if there is none."""
    return float(read_header(path, KIND).get("notes", {}).get("threshold", 0.0))
