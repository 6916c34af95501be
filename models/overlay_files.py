"""An overlay detector as one safetensors file: its tensors, and in the header how to build and feed the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.configs import OverlayConfig
from models.network_files import fill_network, read_header, save_network
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from models.overlay_network import OverlayNetwork

KIND = "overlay"


def save_overlay(network: OverlayNetwork, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` as `save_network` does, and return `path`."""
    return save_network(network, path, KIND, asdict(network.config), notes)


def load_overlay(path: Path, *, partly: bool = False) -> OverlayNetwork:
    """Return the network that `save_overlay` wrote, float32, in eval mode, on the CPU.

    With `partly`, layers that the file lacks, or has in another shape, keep their random weights. Raises
    `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.overlay_network import build_overlay  # noqa: PLC0415

    network = build_overlay(read_overlay_config(path))
    fill_network(network, path, network.config.architecture, partly=partly)
    return network.eval()


def read_overlay_config(path: Path) -> OverlayConfig:
    """Return the configuration in the header of an overlay detector's file. Raises as `load_overlay` does."""
    header = read_header(path, KIND)
    try:
        return OverlayConfig(
            architecture=str(header["architecture"]),
            input_size=int(header["input_size"]),
            width=int(header["width"]),
            mean=_channels(header["mean"]),
            std=_channels(header["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} has a damaged header ({error!r}); copy the file again, or train it again"
        ) from error


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
