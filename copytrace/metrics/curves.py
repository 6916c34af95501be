"""Precision and recall at decreasing score thresholds; predictions with equal scores are accepted together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.metrics.images import P90, Float64s, OperatingPoint

_ROUNDING = 1e-9  # a precision of exactly 0.9 may come out slightly lower, since seconds are sums of floats


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precisions and recalls (0..1) with one step per distinct score; all float64 of shape (steps,).

    A step accepts all predictions with at least its score. `scores` decrease strictly, `recalls` never decrease. A
    precision is 0 where its divisor is 0.
    """

    scores: Float64s
    precisions: Float64s
    recalls: Float64s

    @property
    def average_precision(self) -> float:
        """Average precision, 0..1: the sum over the steps of precision times gain of recall; 0 without steps."""
        return float(np.sum(self.precisions * np.diff(self.recalls, prepend=0.0)))

    @property
    def recall(self) -> float:
        """Recall (0..1) of all predictions together."""
        return float(self.recalls[-1]) if len(self.recalls) else 0.0

    def recall_at_precision(self, precision: float = P90) -> OperatingPoint | None:
        """Return the greatest recall above 0 with a precision of at least `precision`, or None if there is none.

        Its threshold is the highest score with this recall. Raises `InputError` unless 0 < precision <= 1.
        """
        if not 0 < precision <= 1:
            raise InputError(f"a precision of {precision} cannot be required; give one above 0 and at most 1")
        reached = np.flatnonzero((self.precisions >= precision - _ROUNDING) & (self.recalls > 0))
        if not reached.size:
            return None
        recall = self.recalls[reached[-1]]
        # While the recall is constant the precision only falls, so the first step of this recall is precise enough.
        return OperatingPoint(float(recall), float(self.scores[np.searchsorted(self.recalls, recall)]))

    def points(self) -> dict[str, list[float]]:
        """Return the steps that gain recall as plain lists for a plot: `score`, `precision`, `recall`."""
        gains = np.diff(self.recalls, prepend=0.0) > 0
        columns: dict[str, NDArray[Any]] = {
            "score": self.scores,
            "precision": self.precisions,
            "recall": self.recalls,
        }
        return {name: column[gains].tolist() for name, column in columns.items()}


def share(part: NDArray[Any], whole: NDArray[Any]) -> Float64s:
    """Return `part / whole` of sums of shape (steps,), clipped to 0..1 against rounding, and 0 where `whole` is 0."""
    quotients: Float64s = np.divide(part, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)
    return quotients.clip(0.0, 1.0)
