"""Configurations of the trained networks, free of torch: reading a model's header must not import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Backbone = Literal["light", "hrnet_w18"]

LIGHT = "light"  # the networks of this project, beside the published ones
HRNET_STRIDE = 8  # of HRNet's coarsest map, which fits the others only if it divides the sides of the canvas
HRNET_CANVAS = 128  # side that HRNet is trained at: smaller matrices are padded to it
PAIR_CANVAS = 160  # side of the matrices that a picture classifier takes, as published


@dataclass(frozen=True)
class AlignerConfig:
    """Configuration of an aligner's network: "light" is this project's, "hrnet_w18" the published one.

    Raises `ValueError` for another backbone.
    """

    backbone: Backbone = "light"

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            raise ValueError(f"unknown backbone {self.backbone!r}; give one of: {', '.join(get_args(Backbone))}")

    @property
    def multiple(self) -> int:
        """Number that must divide both sides of a canvas."""
        return 1 if self.backbone == LIGHT else HRNET_STRIDE

    def canvas_side(self, side: int) -> int:
        """Return the side of the canvas for a matrix of this side: the same side, except for HRNet."""
        return side if self.backbone == LIGHT else max(HRNET_CANVAS, -(-side // HRNET_STRIDE) * HRNET_STRIDE)


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
class PairConfig:
    """Configuration of a pair classifier: `architecture` is "light", this project's, or a model of timm."""

    architecture: str = LIGHT

    @property
    def canvas(self) -> int | None:
        """Side of the square canvas that every matrix is put on; None if each keeps its own size."""
        return None if self.architecture == LIGHT else PAIR_CANVAS
