"""Precision and recall as the threshold of the score falls, where predictions of one score are accepted together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.metrics.images import P90, OperatingPoint

Floats = NDArray[np.float64]

# Seconds are sums of floats, so a precision that is exactly 0.9 on paper may come out a little lower.
_ROUNDING = 1e-9


class Performance(NamedTuple):
    """What a threshold gives: `recall` 0..1, and `precision` 0..1 or None where it accepts no prediction."""

    precision: float | None
    recall: float


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """A step per distinct score, all float64 of shape (steps,); accepting a score accepts the higher ones too.

    `scores` fall strictly, `recalls` (0..1) never fall. A precision is 0 where there is nothing to divide by.
    """

    scores: Floats
    precisions: Floats
    recalls: Floats

    @property
    def average_precision(self) -> float:
        """Average precision, 0..1: precision times gain of recall, summed over the steps; no steps give 0."""
        return float(np.sum(self.precisions * np.diff(self.recalls, prepend=0.0)))

    @property
    def recall(self) -> float:
        """The recall (0..1) of all predictions together."""
        return float(self.recalls[-1]) if len(self.recalls) else 0.0

    def at(self, threshold: float) -> Performance:
        """Return the precision and the recall of the predictions with a score of at least `threshold`."""
        accepted = int(np.searchsorted(-self.scores, -threshold, side="right"))
        if not accepted:
            return Performance(precision=None, recall=0.0)
        return Performance(float(self.precisions[accepted - 1]), float(self.recalls[accepted - 1]))

    def recall_at_precision(self, precision: float = P90) -> OperatingPoint | None:
        """Return the greatest recall above 0 whose precision is at least `precision`, or None if there is none.

        Its threshold is the highest score that reaches this recall. Raises InputError unless 0 < precision <= 1.
        """
        if not 0 < precision <= 1:
            raise InputError(f"a precision of {precision} cannot be required; give one above 0 and at most 1")
        reached = np.flatnonzero((self.precisions >= precision - _ROUNDING) & (self.recalls > 0))
        if not reached.size:
            return None
        recall = self.recalls[reached[-1]]
        # Where the recall stands still the precision only falls, so the first step of this recall is good enough too.
        return OperatingPoint(float(recall), float(self.scores[np.searchsorted(self.recalls, recall)]))

    def points(self) -> dict[str, list[float]]:
        """Return the steps that gain recall as plain lists, ready to plot: `score`, `precision`, `recall`."""
        gains = np.diff(self.recalls, prepend=0.0) > 0
        columns: dict[str, NDArray[Any]] = {
            "score": self.scores,
            "precision": self.precisions,
            "recall": self.recalls,
        }
        return {name: column[gains].tolist() for name, column in columns.items()}


def share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return `part / whole` of (steps,) sums, held to 0..1 against rounding, and 0 where `whole` is 0."""
    quotients: Floats = np.divide(part, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)
    return quotients.clip(0.0, 1.0)
