"""The pair classifiers: from a similarity matrix of two videos, the logit that anything is copied.

The published one is a picture classifier on the matrix, like the candidate classifier of the winners of VSC2022 (Liu et
al., "A Similarity Alignment Model for Video Copy Segment Matching", 2023, section 2.2). The light one computes far
fewer cells: depthwise separable blocks (Howard et al., 2017) at half and at a quarter of the resolution, pooled by
their maxima, so that a line or a bright block has the same effect at any position and in a matrix of any size.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.aligner_network import HIGHEST, LOWEST, Blocks, add_batch_norm, apply_mask, downsample
from models.configs import LIGHT, PairConfig

# The light network, finer map first.
WIDTHS = (16, 48)  # multiples of 16, the number of channels in ONNX Runtime's vector instructions
DILATIONS = ((1, 1), (1, 2, 4))  # of the blocks of each map
HIDDEN = 32
COARSE = 4  # side in cells of the part of the matrix that one cell of the coarser map represents
RARE = -3.0  # logit of a prior of 5 %: few of those cells lie on a copy


class PictureClassifier(nn.Module):
    """A backbone of timm that classifies canvases with similarity matrices."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = timm.create_model(config.architecture, pretrained=False, in_chans=1, num_classes=1)

    def forward(self, canvas: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn float32 [N, 1, 160, 160] into logits float32 [N].

        The matrix is in the upper left corner, with similarity 0 around it; `inside` is not used. See
        `pair_canvas` of `copytrace.alignment.networks`.
        """
        limited = canvas if self.config.published else canvas.clamp(LOWEST, HIGHEST)
        logits: Tensor = self.backbone(limited).float()
        return logits.squeeze(1)


class LightPairClassifier(nn.Module):
    """This project's classifier; its output for a matrix is the same with and without padding to a larger canvas."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = WIDTHS
        self.stem = add_batch_norm(nn.Conv2d(1, fine, 5, stride=2, padding=2, bias=False))
        self.fine = Blocks(fine, DILATIONS[0])
        self.shrink = downsample(fine, coarse)
        self.coarse = Blocks(coarse, DILATIONS[1])
        self.cells = nn.Conv2d(coarse, 1, 1)
        nn.init.constant_(self.cells.bias, RARE)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(2 * coarse, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, values: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn similarities float32 [N, 1, H, W] into logits float32 [N]; any H and W of at least 1.

        `inside` float32 [N, 1, H, W] is 1 on the matrix, which starts in the upper left corner, and 0 on the padding.
        Without it, the whole canvas is the matrix.
        """
        return self.classify(self.coarse_map(values, inside), inside)

    def coarse_map(self, values: Tensor, inside: Tensor | None) -> Tensor:
        """Return the coarser map, float32 [N, C, ⌈H / 4⌉, ⌈W / 4⌉], 0 outside the matrix."""
        half, quarter = (None if inside is None else inside[..., ::step, ::step] for step in (2, COARSE))
        features = apply_mask(functional.relu(self.stem(apply_mask(values.clamp(LOWEST, HIGHEST), inside))), half)
        features = apply_mask(functional.relu(self.shrink(self.fine(features, half))), quarter)
        coarse: Tensor = self.coarse(features, quarter)
        return coarse

    def classify(self, coarse: Tensor, inside: Tensor | None) -> Tensor:
        """Return the logits float32 [N] of a coarser map, from its maxima and means over the cells."""
        means = coarse.mean(dim=(2, 3))
        if inside is not None:
            means = means / inside[..., ::COARSE, ::COARSE].mean(dim=(2, 3))
        logits: Tensor = self.head(torch.cat([coarse.amax(dim=(2, 3)), means], dim=1)).float()
        return logits.squeeze(1)


PairNetwork = PictureClassifier | LightPairClassifier


def build_pair_classifier(architecture: str = LIGHT) -> PairNetwork:
    """Return a classifier with random weights, "light" or a model of timm with one channel; nothing is downloaded.

    Raises `ValueError` when timm has no such model.
    """
    config = PairConfig(architecture)
    if architecture == LIGHT:
        return LightPairClassifier(config)
    try:
        return PictureClassifier(config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"timm builds no {architecture} of one channel ({error}); give light, or another") from error
