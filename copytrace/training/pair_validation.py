"""Validation of pair classifiers: candidate pairs of queries that were kept out, and which of them are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from copytrace.alignment.pair_canvas import pair_canvases
from copytrace.arrays import Floats
from copytrace.metrics.images import micro_average_precision
from copytrace.training.matrices import LabelledPair
from models.pair_network import PairNetwork

KEPT = 0.99  # share of the true pairs that a classifier must keep
MARGIN = 0.8  # of the odds of the faintest of these: true pairs of other queries may be a little fainter


@dataclass(frozen=True)
class PairValidation:
    """The pairs to judge."""

    pairs: tuple[LabelledPair, ...]

    def metrics(self, network: PairNetwork) -> dict[str, float]:
        """Return the figures of `pair_metrics`."""
        return pair_metrics(probabilities(network, self.pairs), labels_of(self.pairs))


def labels_of(pairs: Sequence[LabelledPair]) -> NDArray[np.bool_]:
    """Return whether each pair is true, bool [N]."""
    return np.array([pair.is_true for pair in pairs], np.bool_)


def probabilities(network: PairNetwork, pairs: Sequence[LabelledPair]) -> Floats:
    """Return how surely anything is copied in each pair, float32 [N], 0 to 1: the mean over both orientations.

    It is what `PairFilter.probability` says of the same weights.
    """
    looks = [[_probability(network, look) for look in pair_canvases(p.matrix.values, network.config)] for p in pairs]
    return np.array([max(found, default=0.0) for found in looks], np.float32)


def _probability(network: PairNetwork, values: Floats) -> float:
    place = next(network.parameters()).device
    matrix = torch.from_numpy(np.ascontiguousarray(values))[None, None].to(place)
    with torch.inference_mode():
        chances = torch.sigmoid(network(matrix)) + torch.sigmoid(network(matrix.mT.contiguous()))
    return float(chances) / 2


def pair_metrics(chances: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return what dropping pairs by these probabilities, float32 [N], would do; all figures are 0 to 1.

    `dropped` is the share of false pairs below `safe_threshold`, `dropped_of_all` that of all pairs, and `kept` that of
    the true pairs that reach it. `likelihood` is the geometric mean of the probabilities that the truth was given,
    where true and false pairs weigh alike: it tells networks apart that drop alike.
    """
    dropped = chances < safe_threshold(chances, labels)
    given = np.log(np.where(labels, chances, 1 - chances).astype(np.float64).clip(1e-6))
    return {
        "likelihood": float(np.exp((given[labels].mean() + given[~labels].mean()) / 2)),
        "dropped": float(dropped[~labels].mean()),
        "dropped_of_all": float(dropped.mean()),
        "kept": float(1 - dropped[labels].mean()),
        "average_precision": micro_average_precision(labels, chances.astype(np.float64), int(labels.sum())),
    }


def safe_threshold(chances: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the probability below which pairs may be dropped: a little less than 99 % of the true ones reach."""
    lowest = threshold_keeping(chances, labels, KEPT)
    odds = MARGIN * lowest / max(1 - lowest, 1e-6)
    return odds / (1 + odds)


def threshold_keeping(chances: Floats, labels: NDArray[np.bool_], share: float) -> float:
    """Return the greatest threshold that at least `share` of the true pairs reach; there must be some."""
    true = np.sort(chances[labels])
    return float(true[int(np.floor((1 - share) * len(true) + 1e-9))])
