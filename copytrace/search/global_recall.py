"""Global recall: which references have the descriptors nearest to a query's?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Descriptors:
    """N unit vectors, float32 [N, D], of panes (`whole`, `crop0`, …) of images."""

    ids: tuple[str, ...]
    panes: tuple[str, ...]
    vectors: Floats

    def __len__(self) -> int:
        return len(self.ids)


def nearest(queries: Floats, blocks: Iterable[Floats], neighbours: int) -> tuple[Floats, Numbers]:
    """Return the greatest cosines float32 [Q, K], greatest first, and rows int64 [Q, K] counted over all blocks.

    Exact. Blocks are float32 [N, D] and pass once, so memory holds one block however many references there are;
    where there are fewer than K references, cosines are −inf and rows −1.
    """
    best = np.full((len(queries), neighbours), -np.inf, np.float32)
    rows = np.full((len(queries), neighbours), -1, np.int64)
    start = 0
    for block in blocks:
        similarity = np.concatenate([best, queries @ block.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        candidates = np.concatenate([rows, numbers], axis=1)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        best = np.take_along_axis(similarity, order, axis=1)
        rows = np.take_along_axis(candidates, order, axis=1)
        start += len(block)
    return best, rows


def noise_level(similarity: Floats, neighbours: int, *, typical: float, skip: int = 0) -> Floats:
    """Return float32 [Q]: the mean of the `neighbours` greatest similarities to noise, the first `skip` left out.

    This is what score normalisation subtracts (ISC 2021 baseline, SSCD's `weight[first,last]`). With the references
    themselves as noise, the nearest is left out: it may be the copied one. `similarity` is sorted, greatest first;
    where there are too few neighbours, the `typical` level of the model stands in for those that are missing.
    """
    chosen = similarity[:, skip : skip + neighbours]
    chosen = np.where(np.isfinite(chosen), chosen, typical)
    missing = neighbours - chosen.shape[1]
    return np.asarray((chosen.sum(axis=1) + missing * typical) / max(neighbours, 1), np.float32)


def panes_for_global_branch(panes: Sequence[str], *, crop_replaces_whole: bool) -> NDArray[np.bool_]:
    """Say which panes of one query are searched: all of them, or like imgFp the first crop instead of the whole."""
    names = np.array(panes)
    if crop_replaces_whole and "crop0" in panes:
        return np.asarray(names == "crop0")
    return np.asarray(names == "whole") if crop_replaces_whole else np.ones(len(names), bool)
