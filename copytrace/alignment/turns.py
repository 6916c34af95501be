"""Turns: the moments at which a query leaves the line that it shows, because a stretch is looped or played back.

One straight line through the passes of a loop, or through both ways of a boomerang, has more evidence than the line of
one pass, and covers reference seconds that are not shown. The best path of several lines, where each turn has a cost,
tells where one pass ends and the next begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Float64s, Indices

FASTEST = 2.0  # times the natural speed
DETOUR_COST = 0.01  # of each column by which a step differs from the natural speed, so that a still shot has no turn
FORWARDS, BACKWARDS = 0, 1


def find_turns(evidence: Float64s, shift: float, cost: float) -> list[int]:
    """Return the rows, ascending, at which the best path through `evidence` float64 [Q, R] turns.

    A path has a cell in each row. From row to row it goes 0 to `FASTEST` times `shift` columns, always forwards or
    always backwards; `shift` is the number of columns at natural speed. A turn, which goes to any column and in either
    direction, costs `cost` of the evidence. A turn at row n is between rows n − 1 and n.
    """
    height, width = evidence.shape
    if height < 2 or not width:
        return []
    steps = np.arange(int(np.ceil(FASTEST * shift)) + 1)
    detours = DETOUR_COST * np.abs(steps - shift)[:, None]
    sums = np.stack([evidence[0], evidence[0]])
    sources = np.full((height, 2, width), -1)  # the column in the row before; -1 at a turn
    bests = np.zeros(height, np.intp)  # place of the best sum of the row before
    for row in range(1, height):
        bests[row] = sums.argmax()
        turned = sums.max() - cost
        for way in (FORWARDS, BACKWARDS):
            moved, sources[row, way] = _move(sums[way], steps, detours, way)
            sources[row, way][turned > moved] = -1
            sums[way] = np.maximum(moved, turned) + evidence[row]
    return _trace(sums, sources, bests)


def _move(sums: Float64s, steps: Indices, detours: Float64s, way: int) -> tuple[Float64s, Indices]:
    """Return the best sum that reaches each column by one of the steps, and the column that it comes from."""
    columns = np.arange(len(sums)) + steps[:, None] * (1 if way == BACKWARDS else -1)
    inside = (columns >= 0) & (columns < len(sums))
    reached = np.where(inside, sums[np.clip(columns, 0, len(sums) - 1)] - detours, -np.inf)
    best = reached.argmax(axis=0)[None]
    return np.take_along_axis(reached, best, axis=0)[0], np.take_along_axis(columns, best, axis=0)[0]


def _trace(sums: Float64s, sources: NDArray[np.intp], bests: Indices) -> list[int]:
    way, column = divmod(int(sums.argmax()), sums.shape[1])
    turns = []
    for row in range(len(sources) - 1, 0, -1):
        column = int(sources[row, way, column])
        if column < 0:
            turns.append(row)
            way, column = divmod(int(bests[row]), sums.shape[1])
    return turns[::-1]
