"""The classifier of video pairs: is anything copied in this similarity matrix?

A picture classifier on the matrix, as the candidate classifier of the winners of VSC2022 (Liu et al., "A Similarity
Alignment Model for Video Copy Segment Matching", 2023, section 2.2).
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from models.aligner_network import HIGHEST, LOWEST
from models.pair_files import PairConfig


class PairClassifier(nn.Module):
    """Canvases with similarity matrices in, logits of "something is copied" out."""

    def __init__(self, backbone: nn.Module, config: PairConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone

    def forward(self, canvas: Tensor) -> Tensor:
        """Turn float32 [N, 1, 160, 160] into logits float32 [N].

        The matrix is in the upper left corner, and similarity 0 around it; see `copytrace.alignment.pair_filter`.
        """
        logits: Tensor = self.backbone(canvas.clamp(LOWEST, HIGHEST)).float()
        return logits.squeeze(1)


def build_pair_classifier(architecture: str = "mobilenetv3_small_100") -> PairClassifier:
    """Return a classifier with random weights on a backbone of timm that takes one channel; nothing is downloaded.

    Raises `ValueError` when timm has no such model.
    """
    try:
        backbone: Any = timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"timm builds no {architecture} of one channel ({error}); give another model") from error
    return PairClassifier(backbone, PairConfig(architecture))
