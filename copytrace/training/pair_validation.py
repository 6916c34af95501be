"""Validation of pair classifiers: candidate pairs of queries that were kept out, and which of them are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from copytrace.alignment.pair_canvas import pair_canvas
from copytrace.metrics.images import micro_average_precision
from copytrace.training.matrices import LabelledPair
from models.pair_network import PairClassifier

Floats = NDArray[np.float32]

KEPT = 0.99  # share of the true pairs that a classifier must keep
BATCH = 32


@dataclass(frozen=True)
class PairValidation:
    """The pairs to judge."""

    pairs: tuple[LabelledPair, ...]

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Whether each pair is true, bool [N]."""
        return np.array([pair.is_true for pair in self.pairs], np.bool_)

    def metrics(self, network: PairClassifier) -> dict[str, float]:
        """Return the figures of `pair_metrics`."""
        return pair_metrics(probabilities(network, self.pairs), self.labels)

    def threshold(self, network: PairClassifier) -> float:
        """Return the probability below which pairs may be dropped."""
        return threshold_keeping(probabilities(network, self.pairs), self.labels, KEPT)


def probabilities(network: PairClassifier, pairs: Sequence[LabelledPair]) -> Floats:
    """Return how surely anything is copied in each pair, float32 [N], 0 to 1: the mean over both orientations."""
    device = next(network.parameters()).device
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs), BATCH):
        canvases = np.stack([pair_canvas(pair.matrix.values) for pair in pairs[start : start + BATCH]])
        batch = torch.from_numpy(canvases)[:, None].to(device)
        with torch.inference_mode():
            chances = torch.sigmoid(network(batch)) + torch.sigmoid(network(batch.mT.contiguous()))
        found.append((chances / 2).cpu().numpy())
    return np.concatenate(found)


def pair_metrics(chances: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return what dropping pairs by these probabilities, float32 [N], would do; all figures are 0 to 1.

    `dropped` is the share of false pairs dropped when at least 99 % of the true ones stay, `dropped_of_all` that of
    all pairs. `likelihood` is the geometric mean of the probabilities that the truth was given, where true and false
    pairs weigh alike: it tells networks apart that drop alike.
    """
    dropped = chances < threshold_keeping(chances, labels, KEPT)
    given = np.log(np.where(labels, chances, 1 - chances).astype(np.float64).clip(1e-6))
    return {
        "likelihood": float(np.exp((given[labels].mean() + given[~labels].mean()) / 2)),
        "dropped": float(dropped[~labels].mean()),
        "dropped_of_all": float(dropped.mean()),
        "average_precision": micro_average_precision(labels, chances.astype(np.float64), int(labels.sum())),
    }


def threshold_keeping(chances: Floats, labels: NDArray[np.bool_], share: float) -> float:
    """Return the greatest threshold that at least `share` of the true pairs reach; there must be some."""
    true = np.sort(chances[labels])
    return float(true[int(np.floor((1 - share) * len(true) + 1e-9))])
