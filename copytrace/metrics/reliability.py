"""How far scores that are meant as probabilities are from being true."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15


def expected_calibration_error(probability: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the mean gap between probability and truth over 15 equal bins, weighted by pairs (Guo et al. 2017).

    `probability` float64 [N], 0 to 1, `labels` bool [N]; the result is 0 to 1, and 0 without pairs.
    """
    order = np.argsort(probability, kind="stable")  # so that the sums, with their rounding, do not depend on it
    probability, labels = probability[order], labels[order]
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    pairs = np.bincount(bins, minlength=BINS)
    gap = np.bincount(bins, probability, BINS) - np.bincount(bins, labels.astype(np.float64), BINS)
    return float(np.abs(gap[pairs > 0]).sum() / max(len(labels), 1))


def calibration_error(
    scores: NDArray[np.float64], correct: NDArray[np.bool_], chosen: NDArray[Any] | slice = slice(None)
) -> float | None:
    """Return the expected calibration error of the chosen ones of all predicted pairs.

    `scores` float64 [N], `correct` bool [N]; `chosen` are their numbers, or bool [N]. The result is None if none is
    chosen, or if any of the N scores is below 0 or above 1, so that they are no probabilities.
    """
    if not len(scores[chosen]) or scores.min() < 0 or scores.max() > 1:
        return None
    return expected_calibration_error(scores[chosen], correct[chosen])
