"""An aligner's network as one safetensors file: its tensors, and in the header how to build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from models.descriptor_files import read_header
from models.network_files import fill_network, save_network
from models.pretrained import ModelFileError

if TYPE_CHECKING:
    from models.aligner_network import HrnetAligner, LightAligner

KIND = "aligner"
Backbone = Literal["light", "hrnet_w18"]

HRNET_STRIDE = 8  # of HRNet's coarsest map, which joins the others only where it divides the sides
HRNET_CANVAS = 128  # what HRNet is trained on: smaller matrices are padded to it


@dataclass(frozen=True)
class AlignerConfig:
    """What an aligner's network is, told without torch: "light", ours, or "hrnet_w18", the published one.

    Raises `ValueError` for another backbone.
    """

    backbone: Backbone = "light"

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            raise ValueError(f"unknown backbone {self.backbone!r}; give one of: {', '.join(get_args(Backbone))}")

    @property
    def multiple(self) -> int:
        """What divides both sides of a canvas."""
        return 1 if self.backbone == "light" else HRNET_STRIDE

    def canvas_side(self, side: int) -> int:
        """Return the side of the canvas that a matrix of this side is seen on: its own, but for HRNet."""
        return side if self.backbone == "light" else max(HRNET_CANVAS, -(-side // HRNET_STRIDE) * HRNET_STRIDE)


def save_aligner(network: LightAligner | HrnetAligner, path: Path, *, notes: Mapping[str, Any] | None = None) -> Path:
    """Write `network` atomically and return `path`; see `save_network`."""
    return save_network(network, path, KIND, asdict(network.config), notes)


def load_aligner_network(path: Path) -> LightAligner | HrnetAligner:
    """Return the network that `save_aligner` wrote, float32, in eval mode, on the CPU.

    Raises `ModelFileError` when the file is absent, cut short, or holds something else.
    """
    from models.aligner_network import build_aligner_network  # here: reading a header must not import torch  # noqa: PLC0415

    config = read_aligner_config(path)
    network = build_aligner_network(config)
    fill_network(network, path, config.backbone)
    return network.eval()


def read_aligner_config(path: Path) -> AlignerConfig:
    """Return the config in the header of an aligner's file; errors as of `load_aligner_network`."""
    header = read_header(path, KIND)
    try:
        return AlignerConfig(backbone=header["backbone"])
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path} has a damaged header ({error}); train it anew, or copy it again") from error
