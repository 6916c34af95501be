"""The classifiers of video pairs: is anything copied in this similarity matrix?

The published one is a picture classifier on the matrix, as the candidate classifier of the winners of VSC2022 (Liu et
al., "A Similarity Alignment Model for Video Copy Segment Matching", 2023, section 2.2). The light one looks at far
fewer cells: depthwise separable blocks (Howard et al., 2017) at half and at a quarter of the resolution, pooled by
their largest values, so that a line or a bright block counts alike wherever it lies and however large the matrix is.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.aligner_network import HIGHEST, LOWEST, Blocks, masked, normalised, shrinking
from models.configs import LIGHT, PairConfig

# The light network, finer map first.
WIDTHS = (16, 48)  # multiples of 16: ONNX Runtime's vector instructions take so many channels at once
DILATIONS = ((1, 1), (1, 2, 4))  # of the blocks of each map
HIDDEN = 32
COARSE = 4  # cells along each side of what one cell of its coarser map stands for
RARE = -3.0  # logit of a prior of 5 %: few of those cells lie on a copy


class PictureClassifier(nn.Module):
    """A backbone of timm: canvases with similarity matrices in, logits of "something is copied" out."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = timm.create_model(config.architecture, pretrained=False, in_chans=1, num_classes=1)

    def forward(self, canvas: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn float32 [N, 1, 160, 160] into logits float32 [N].

        The matrix is in the upper left corner, and similarity 0 around it, whatever `inside` says; see
        `copytrace.alignment.pair_canvas`.
        """
        logits: Tensor = self.backbone(canvas.clamp(LOWEST, HIGHEST)).float()
        return logits.squeeze(1)


class LightPairClassifier(nn.Module):
    """Ours, whose answer for a matrix is the same alone and on a larger canvas."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = WIDTHS
        self.stem = normalised(nn.Conv2d(1, fine, 5, stride=2, padding=2, bias=False))
        self.fine = Blocks(fine, DILATIONS[0])
        self.shrink = shrinking(fine, coarse)
        self.coarse = Blocks(coarse, DILATIONS[1])
        self.cells = nn.Conv2d(coarse, 1, 1)
        nn.init.constant_(self.cells.bias, RARE)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(2 * coarse, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, values: Tensor, inside: Tensor | None = None) -> Tensor:
        """Turn similarities float32 [N, 1, H, W] into logits float32 [N]; any H and W of at least 1.

        `inside` float32 [N, 1, H, W] is 1 on the matrix and 0 on what pads it to the canvas: matrices start in the
        upper left corner. Without it, the whole canvas is the matrix.
        """
        return self.judged(self.seen(values, inside), inside)

    def seen(self, values: Tensor, inside: Tensor | None) -> Tensor:
        """Return the coarser map, float32 [N, C, ⌈H / 4⌉, ⌈W / 4⌉], 0 beyond the matrix."""
        half, quarter = (None if inside is None else inside[..., ::step, ::step] for step in (2, COARSE))
        seen = masked(functional.relu(self.stem(masked(values.clamp(LOWEST, HIGHEST), inside))), half)
        seen = masked(functional.relu(self.shrink(self.fine(seen, half))), quarter)
        coarse: Tensor = self.coarse(seen, quarter)
        return coarse

    def judged(self, seen: Tensor, inside: Tensor | None) -> Tensor:
        """Return the logits float32 [N] of what `seen` returned: of its largest values, and of its means."""
        means = seen.mean(dim=(2, 3))
        if inside is not None:
            means = means / inside[..., ::COARSE, ::COARSE].mean(dim=(2, 3))
        logits: Tensor = self.head(torch.cat([seen.amax(dim=(2, 3)), means], dim=1)).float()
        return logits.squeeze(1)


PairNetwork = PictureClassifier | LightPairClassifier


def build_pair_classifier(architecture: str = LIGHT) -> PairNetwork:
    """Return a classifier with random weights, ours or one of timm that takes one channel; nothing is downloaded.

    Raises `ValueError` when timm has no such model.
    """
    config = PairConfig(architecture)
    if architecture == LIGHT:
        return LightPairClassifier(config)
    try:
        return PictureClassifier(config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"timm builds no {architecture} of one channel ({error}); give light, or another") from error
