"""The training module of the aligner's network: its losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from copytrace.training.loop import TrainingModule
from models.aligner_network import HrnetAligner, LightAligner

AlignerNetwork = LightAligner | HrnetAligner


class AlignerModule(TrainingModule[AlignerNetwork]):
    """Training on batches of `matrix`, `label` and `inside`, each float32 [N, S, S]; see `AlignerExamples`."""

    def __init__(self, network: AlignerNetwork, *, positive_weight: float, dice_weight: float) -> None:
        super().__init__()
        self.network = network
        self.positive_weight, self.dice_weight = positive_weight, dice_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss` and its parts, `cells` and `lines`."""
        inside = batch["inside"]
        logits = self.network(batch["matrix"][:, None], inside[:, None])[:, 0]
        cells = cell_loss(logits, batch["label"], inside, self.positive_weight)
        lines = line_loss(logits, batch["label"], inside)
        return {"loss": cells + self.dice_weight * lines, "cells": cells, "lines": lines}


def cell_loss(logits: Tensor, label: Tensor, inside: Tensor, positive_weight: float) -> Tensor:
    """Return the cross-entropy with labels 0 to 1, the mean over the cells inside; all are [N, S, S].

    Lines are thin, so the positive part of a label is weighted by `positive_weight`.
    """
    weight = torch.tensor(positive_weight, device=logits.device)
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), label.float(), pos_weight=weight, reduction="none"
    )
    return (losses * inside).sum() / inside.sum().clamp(min=1.0)


def line_loss(logits: Tensor, label: Tensor, inside: Tensor) -> Tensor:
    """Return the Dice loss with squares (Milletari et al., "V-Net", 2016), 0 to 1, over the matrices with lines."""
    heat = torch.sigmoid(logits.float()) * inside
    shared = (heat * label).sum(dim=(1, 2))
    sizes = (heat.square() + label.square()).sum(dim=(1, 2))
    has_lines = (label.amax(dim=(1, 2)) > 0).float()
    losses = 1.0 - 2.0 * shared / sizes.clamp(min=1e-6)
    return (losses * has_lines).sum() / has_lines.sum().clamp(min=1.0)
