"""What the aligner and the pair classifier learn from: edited real matrices, and synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.pair_canvas import pair_canvas
from copytrace.arrays import Floats
from copytrace.training.aligner_labels import label_map
from copytrace.training.matrices import LabelledPair
from copytrace.training.matrix_edits import at_other_rates, on_canvas, revalued, turned, window
from copytrace.training.synthetic_matrices import SyntheticMatrices


@dataclass(frozen=True, slots=True)
class MatrixSource:
    """Draws labelled matrices: true pairs, pairs that the search took for candidates in vain, and synthetic ones.

    `false` are best first by their search score. Of the real ones `true_share` (0 to 1) are true.
    """

    true: tuple[LabelledPair, ...]
    false: tuple[LabelledPair, ...]
    synthetic: SyntheticMatrices
    synthetic_share: float
    true_share: float

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair], synthetic_share: float, true_share: float) -> MatrixSource:
        """Draw from these pairs, of which some must be true and some not."""
        false = sorted((pair for pair in pairs if not pair.is_true), key=lambda pair: -pair.score)
        backgrounds = SyntheticMatrices([pair.matrix.values for pair in false])
        true = tuple(pair for pair in pairs if pair.is_true)
        return cls(true, tuple(false), backgrounds, synthetic_share, true_share)

    def draw(self, rng: np.random.Generator, side: int) -> tuple[Floats, Floats]:
        """Return values and labels (see `label_map`) of at most `side` rows and columns, float32 [Q, R], edited."""
        if rng.random() < self.synthetic_share:
            matrix, segments = self.synthetic.draw(rng)
        else:
            pair = self.real(rng)
            segments = list(pair.segments)
            matrix = at_other_rates(pair.matrix, rng)
        matrix = window(matrix, segments, side, rng)
        label = label_map(segments, matrix.query_times, matrix.reference_times)
        values, label = turned(matrix.values, label, rng)
        return revalued(values, rng), label

    def real(self, rng: np.random.Generator) -> LabelledPair:
        """Return one of the pairs; of the false ones, the better their score the more often."""
        if rng.random() < self.true_share:
            return self.true[int(rng.integers(len(self.true)))]
        return self.false[int(rng.integers(len(self.false), size=2).min())]  # the better of two


@dataclass(frozen=True, slots=True)
class AlignerExamples:
    """`matrix`, `label` and `inside`, 1 where the matrix is, each float32 [side, side]; see `Examples`."""

    source: MatrixSource
    count: int
    side: int
    seed: int

    def __len__(self) -> int:
        """How many an epoch has."""
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make one; the same epoch and index give the same arrays."""
        values, label = self.source.draw(np.random.default_rng((self.seed, epoch, index)), self.side)
        parts = {"matrix": values, "label": label, "inside": np.ones_like(values)}
        return {name: on_canvas(part, self.side) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class PairExamples:
    """`matrix`, `inside` and `cells`, each float32 [side, side], and `label` float32 [], 1 if anything is copied.

    `cells` is 1 where the copy's line is, 0 to 1 beside it, and `inside` is 1 where the matrix is. Of matrices of up to
    `drawn` rows and columns a `side` shorter than that sees the largest values, see `pair_canvas`.
    """

    source: MatrixSource
    count: int
    side: int
    drawn: int
    seed: int

    def __len__(self) -> int:
        """How many an epoch has."""
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make one; the same epoch and index give the same arrays."""
        rng = np.random.default_rng((self.seed, epoch, index))
        values, label = self.source.draw(rng, self.drawn)
        while label.any() and not _shows_a_copy(label):
            values, label = self.source.draw(rng, self.drawn)
        parts = {"matrix": values, "inside": np.ones_like(values), "cells": label}
        canvases = {name: pair_canvas(part, self.side) for name, part in parts.items()}
        return {**canvases, "label": np.array(label.any(), np.float32)}


def _shows_a_copy(label: Floats) -> bool:
    """Whether two frames of either video are copied: of less, as an edge of the matrix may leave, nobody can tell."""
    hot = label > 0.5
    return bool(min(hot.any(axis=0).sum(), hot.any(axis=1).sum()) >= 2)
