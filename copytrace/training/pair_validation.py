"""Validation of pair classifiers by the candidate pairs of held-out queries that they drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from copytrace.alignment.networks import pair_canvases
from copytrace.arrays import Floats
from copytrace.metrics.images import micro_average_precision
from copytrace.training.matrices import LabeledPair
from models.pair_network import PairNetwork

KEPT = 0.99  # share of the true pairs that a classifier must keep
MARGIN = 0.8  # factor on the odds of the weakest of these, as true pairs of other queries may be a little weaker


@dataclass(frozen=True)
class PairValidation:
    """The pairs to judge."""

    pairs: tuple[LabeledPair, ...]

    def metrics(self, network: PairNetwork) -> dict[str, float]:
        """Return the metrics of `pair_metrics`."""
        return pair_metrics(pair_probabilities(network, self.pairs), pair_labels(self.pairs))


def pair_labels(pairs: Sequence[LabeledPair]) -> NDArray[np.bool_]:
    """Return whether each pair is true, bool [N]."""
    return np.array([pair.is_true for pair in pairs], np.bool_)


def pair_probabilities(network: PairNetwork, pairs: Sequence[LabeledPair]) -> Floats:
    """Return the probability that anything is copied in each pair, float32 [N]: the mean over both orientations.

    It equals that of `PairFilter.probability` with the same weights.
    """
    looks = [[_probability(network, look) for look in pair_canvases(p.matrix.values, network.config)] for p in pairs]
    return np.array([max(found, default=0.0) for found in looks], np.float32)


def _probability(network: PairNetwork, values: Floats) -> float:
    device = next(network.parameters()).device
    matrix = torch.from_numpy(np.ascontiguousarray(values))[None, None].to(device)
    with torch.inference_mode():
        probabilities = torch.sigmoid(network(matrix)) + torch.sigmoid(network(matrix.mT.contiguous()))
    return float(probabilities) / 2


def pair_metrics(probabilities: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics of dropping pairs by these probabilities, float32 [N]; all are 0 to 1.

    `dropped` is the share of false pairs below `safe_threshold`, `dropped_of_all` that of all pairs, and `kept` that of
    the true pairs that reach it. `likelihood` is the geometric mean of the probabilities of the truth, with
    equal weights of true and false pairs; it ranks networks that drop the same pairs.
    """
    dropped = probabilities < safe_threshold(probabilities, labels)
    given = np.log(np.where(labels, probabilities, 1 - probabilities).astype(np.float64).clip(1e-6))
    return {
        "likelihood": float(np.exp((given[labels].mean() + given[~labels].mean()) / 2)),
        "dropped": float(dropped[~labels].mean()),
        "dropped_of_all": float(dropped.mean()),
        "kept": float(1 - dropped[labels].mean()),
        "average_precision": micro_average_precision(labels, probabilities.astype(np.float64), int(labels.sum())),
    }


def safe_threshold(probabilities: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the probability below which to drop pairs: with a margin, 99 % of the true pairs reach it."""
    lowest = recall_threshold(probabilities, labels, KEPT)
    odds = MARGIN * lowest / max(1 - lowest, 1e-6)
    return odds / (1 + odds)


def recall_threshold(probabilities: Floats, labels: NDArray[np.bool_], share: float) -> float:
    """Return the highest threshold that at least `share` of the true pairs reach; there must be true pairs."""
    true = np.sort(probabilities[labels])
    return float(true[int(np.floor((1 - share) * len(true) + 1e-9))])
