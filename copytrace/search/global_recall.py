"""Global recall: search of the references whose descriptors are nearest to those of a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.panes.names import WHOLE


def find_nearest(queries: Floats, blocks: Iterable[Floats], neighbours: int) -> tuple[Floats, Numbers]:
    """Return the greatest cosines float32 [Q, K], greatest first, and rows int64 [Q, K] counted over all blocks.

    The search is exact. Blocks are float32 [N, D] and are read once, so memory holds one block however many references
    there are. Where there are fewer than K references, cosines are −inf and rows −1.
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


def panes_for_global_branch(panes: Sequence[str], *, crop_replaces_whole: bool) -> NDArray[np.bool_]:
    """Return which panes of a query are searched: all of them or, as in imgFp, the first crop instead of the whole."""
    names = np.array(panes)
    if crop_replaces_whole and "crop0" in panes:
        return np.asarray(names == "crop0")
    return np.asarray(names == WHOLE) if crop_replaces_whole else np.ones(len(names), bool)
