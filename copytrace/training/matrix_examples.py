"""Training examples of the aligner and the pair classifier: augmented real matrices, and synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.networks import pair_canvas
from copytrace.arrays import Floats
from copytrace.synthesis.synthetic_matrices import SyntheticMatrices
from copytrace.training.aligner_labels import label_map
from copytrace.training.matrices import LabeledPair
from copytrace.training.matrix_edits import change_rates, change_values, crop_window, flip_axes, pad_to_canvas


@dataclass(frozen=True, slots=True)
class MatrixSource:
    """Source of labeled matrices: true pairs, false candidate pairs, and synthetic ones.

    `false` has the highest search score first. `true_share` (0 to 1) of the real pairs are true.
    """

    true: tuple[LabeledPair, ...]
    false: tuple[LabeledPair, ...]
    synthetic: SyntheticMatrices
    synthetic_share: float
    true_share: float

    @classmethod
    def from_pairs(cls, pairs: Sequence[LabeledPair], synthetic_share: float, true_share: float) -> MatrixSource:
        """Return a source of these pairs, of which some must be true and some false."""
        false = sorted((pair for pair in pairs if not pair.is_true), key=lambda pair: -pair.score)
        backgrounds = SyntheticMatrices([pair.matrix.values for pair in false])
        true = tuple(pair for pair in pairs if pair.is_true)
        return cls(true, tuple(false), backgrounds, synthetic_share, true_share)

    def draw(self, rng: np.random.Generator, side: int) -> tuple[Floats, Floats]:
        """Return values and labels (see `label_map`) of at most `side` rows and columns, float32 [Q, R], augmented."""
        if rng.random() < self.synthetic_share:
            matrix, segments = self.synthetic.draw(rng)
        else:
            pair = self.draw_pair(rng)
            segments = list(pair.segments)
            matrix = change_rates(pair.matrix, rng)
        matrix = crop_window(matrix, segments, side, rng)
        label = label_map(segments, matrix.query_times, matrix.reference_times)
        values, label = flip_axes(matrix.values, label, rng)
        return change_values(values, rng), label

    def draw_pair(self, rng: np.random.Generator) -> LabeledPair:
        """Return one of the pairs; false ones with a higher search score are drawn more often."""
        if rng.random() < self.true_share:
            return self.true[int(rng.integers(len(self.true)))]
        return self.false[int(rng.integers(len(self.false), size=2).min())]  # the one of two with the higher score


@dataclass(frozen=True, slots=True)
class AlignerExamples:
    """`Examples` of `matrix`, `label` and `inside`, 1 on the matrix, each float32 [side, side]."""

    source: MatrixSource
    count: int
    side: int
    seed: int

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make an example; the same epoch and index give the same arrays."""
        values, label = self.source.draw(np.random.default_rng((self.seed, epoch, index)), self.side)
        parts = {"matrix": values, "label": label, "inside": np.ones_like(values)}
        return {name: pad_to_canvas(part, self.side) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class PairExamples:
    """`Examples` of `matrix`, `inside` and `cells`, float32 [side, side], and `label` float32 [], 1 for a copy.

    `cells` is 1 on the line of the copy and 0 to 1 beside it; `inside` is 1 on the matrix. Matrices have up to `drawn`
    rows and columns; if `side` is smaller, they are reduced to their maxima, see `pair_canvas`.
    """

    source: MatrixSource
    count: int
    side: int
    drawn: int
    seed: int

    def __len__(self) -> int:
        """Return the number of examples of an epoch."""
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Make an example; the same epoch and index give the same arrays."""
        rng = np.random.default_rng((self.seed, epoch, index))
        values, label = self.source.draw(rng, self.drawn)
        while label.any() and not _shows_a_copy(label):
            values, label = self.source.draw(rng, self.drawn)
        parts = {"matrix": values, "inside": np.ones_like(values), "cells": label}
        canvases = {name: pair_canvas(part, self.side) for name, part in parts.items()}
        return {**canvases, "label": np.array(label.any(), np.float32)}


def _shows_a_copy(label: Floats) -> bool:
    """Say whether two frames of either video are copied; less, as at an edge of the matrix, is not recognizable."""
    hot = label > 0.5
    return bool(min(hot.any(axis=0).sum(), hot.any(axis=1).sum()) >= 2)
