"""The similarity alignment model: from a similarity matrix, the logit of each cell to lie on a copied diagonal.

The published network (Liu et al., "A Similarity Alignment Model for Video Copy Segment Matching", 2023) runs HRNet-W18
(Wang et al., 2019) at full resolution. The light one is a U-Net (Ronneberger et al., 2015) of depthwise separable
blocks (Howard et al., 2017) with an eightieth of its multiply-adds. Wide dilated kernels on its coarsest map cover the
whole canvas, so that it detects a faint diagonal of that length.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.configs import AlignerConfig

LOWEST, HIGHEST = -0.5, 1.0  # similarities are clamped to this range
RARE = -4.6  # logit of a prior of 1 %: most cells lie on no diagonal

# The light network, finest map first: each map has half the side of the previous one.
WIDTHS = (32, 48, 96, 160)  # multiples of 16, the number of channels in ONNX Runtime's vector instructions
DOWN_BLOCKS, UP_BLOCKS = (1, 1, 2), (2, 1, 1)
DILATIONS = (1, 2, 4)  # of the blocks of the coarsest map

HRNET_WIDTH = 64  # channels of the published head


class LightAligner(nn.Module):
    """A depthwise U-Net whose output for a matrix is the same with and without padding to a larger canvas.

    All features outside the matrix are set to zero before every convolution, as they are outside the canvas.
    """

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.config = config
        finer = (*WIDTHS[:1], *WIDTHS[:-1])
        self.stem = add_batch_norm(nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False))
        self.shrink = nn.ModuleList([downsample(a, b) for a, b in zip(finer[1:], WIDTHS[1:], strict=True)])
        self.down = nn.ModuleList([Blocks(w, (1,) * n) for w, n in zip(WIDTHS[:-1], DOWN_BLOCKS, strict=True)])
        self.coarsest = Blocks(WIDTHS[-1], DILATIONS)
        self.narrow = nn.ModuleList(
            [add_batch_norm(nn.Conv2d(a, b, 1, bias=False)) for a, b in zip(WIDTHS[1:], WIDTHS[:-1], strict=True)]
        )
        self.up = nn.ModuleList([Blocks(w, (1,) * n) for w, n in zip(WIDTHS[:-1], UP_BLOCKS, strict=True)])
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)
        nn.init.constant_(self.head.bias, RARE)  # type: ignore[arg-type]

    def forward(self, values: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn similarities float32 [N, 1, H, W] into logits float32 [N, 1, H, W]; any H and W of at least 1.

        `inside` float32 [N, 1, H, W] is 1 on the matrix, which starts in the upper left corner, and 0 on the padding.
        Without it, the whole canvas is the matrix. Logits outside the matrix are undefined.
        """
        level = None if inside is None else inside.to(values.dtype)
        masks = [level]
        for _ in self.shrink:
            level = None if level is None else level[..., ::2, ::2]
            masks.append(level)
        features = apply_mask(functional.relu(self.stem(apply_mask(values.clamp(LOWEST, HIGHEST), masks[0]))), masks[0])
        skips = []
        for blocks, shrink, mask, coarser in zip(self.down, self.shrink, masks, masks[1:], strict=False):
            features = blocks(features, mask)
            skips.append(features)
            features = apply_mask(functional.relu(shrink(features)), coarser)
        features = self.coarsest(features, masks[-1])
        for index in reversed(range(len(skips))):
            skip = skips[index]
            # Cells 2i and 2i + 1 take the value of cell i, for even and odd sides.
            larger = functional.interpolate(self.narrow[index](features), size=skip.shape[-2:], mode="nearest")
            features = self.up[index](apply_mask(functional.relu(skip + larger), masks[index]), masks[index])
        logits: Tensor = self.head(features).float()
        return logits


class Blocks(nn.Module):
    """A sequence of residual blocks, each a depthwise 5x5 convolution and a pointwise one."""

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            [add_batch_norm(depthwise_convolution(width, dilation)) for dilation in dilations]
        )
        self.pointwise = nn.ModuleList([add_batch_norm(nn.Conv2d(width, width, 1, bias=False)) for _ in dilations])

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return features float [N, C, H, W], zero outside `mask` [N, 1, H, W]."""
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            changed = pointwise(functional.relu(depthwise(features)))
            features = apply_mask(functional.relu(features + changed), mask)
        return features


class HrnetAligner(nn.Module):
    """HRNet-W18 as published, except for one logit per cell instead of two, as softmax uses only their difference.

    It does not mask the padding: outside the matrix the similarity is 0. Matrices smaller than the canvas of 128, or
    224 if its weights are published ones, are padded to it, so that the output is the same with and without padding to
    that canvas.
    """

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.config = config
        backbone: Any = timm.create_model(
            "hrnet_w18", pretrained=False, features_only=True, feature_location="", out_indices=(0, 1, 2, 3, 4)
        )
        backbone.conv1.stride = backbone.conv2.stride = (1, 1)
        self.backbone = backbone
        self.narrow = nn.Conv2d(sum(backbone.feature_info.channels()), HRNET_WIDTH, 1)
        self.head = nn.Conv2d(HRNET_WIDTH, 1, 1)
        nn.init.constant_(self.head.bias, RARE)  # type: ignore[arg-type]

    def forward(self, values: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn similarities float32 [N, 1, H, W] into logits float32 [N, 1, H, W]; see `LightAligner.forward`."""
        height, width = values.shape[-2:]
        below, right = (self.config.canvas_side(side) - side for side in (height, width))
        limited = values if self.config.published else values.clamp(LOWEST, HIGHEST)
        canvas = functional.pad(apply_mask(limited, inside), (0, right, 0, below))
        return self.logits(canvas)[..., :height, :width]

    def logits(self, canvas: Tensor) -> Tensor:
        """Return the logits float32 [N, 1, H, W] of a canvas of that shape, both sides multiples of 8."""
        maps = self.backbone(canvas.expand(-1, 3, -1, -1))
        size = canvas.shape[-2:]
        joined = torch.cat([functional.interpolate(part, size=size, mode="nearest") for part in maps], dim=1)
        logits: Tensor = self.head(functional.relu(self.narrow(joined))).float()
        return logits


def add_batch_norm(convolution: nn.Module) -> nn.Sequential:
    """Append a BatchNorm to a convolution or a sequence of them."""
    last = [layer for layer in convolution.modules() if isinstance(layer, nn.Conv2d)][-1]
    return nn.Sequential(convolution, nn.BatchNorm2d(last.out_channels))


def depthwise_convolution(width: int, dilation: int) -> nn.Conv2d:
    """Return a depthwise 5x5 convolution that keeps the sides."""
    return nn.Conv2d(width, width, 5, padding=2 * dilation, dilation=dilation, groups=width, bias=False)


def downsample(inputs: int, outputs: int) -> nn.Sequential:
    """Return a depthwise 3x3 convolution of stride 2, a pointwise one, and BatchNorm: H to (H + 1) // 2."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False)
    return add_batch_norm(nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1, bias=False)))


def apply_mask(features: Tensor, mask: Tensor | None) -> Tensor:
    """Return [N, C, H, W] with zeros where `mask` [N, 1, H, W] is 0."""
    return features if mask is None else features * mask


def build_aligner_network(config: AlignerConfig | None = None) -> LightAligner | HrnetAligner:
    """Return the network of `config`, by default the light one, with random weights; nothing is downloaded."""
    config = config or AlignerConfig()
    return LightAligner(config) if config.backbone == "light" else HrnetAligner(config)
