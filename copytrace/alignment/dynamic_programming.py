"""Dynamic programming: the best local alignment of two videos, as Smith and Waterman's of two proteins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.greedy_aligner import Direction, GreedyAligner, Path
from copytrace.alignment.lines import Array, Indices, fit_line

# Ways to arrive at a cell: rows and columns since the last one. They hold the speed between 1/2 and 2.
BEGIN, BOTH, TWO_COLUMNS, TWO_ROWS = range(4)


@dataclass(frozen=True)
class DynamicProgrammingAligner(GreedyAligner):
    """Finds paths of any shape whose speed stays between 1/2 and 2 from frame to frame.

    Unseen frames cost their (negative) evidence, so that `max_penalty` is the price of a second of gap; each step of
    speed 2 or 1/2 costs `step_cost` per second. The frames are laid on even grids of their typical length first, for
    steps to be seconds. A segment's reference times are those of the line through its path, whose speed is drawn
    towards 1 as by points that span `prior_seconds`.
    """

    step_cost: float = 0.1
    prior_seconds: float = 0.5

    def find(self, direction: Direction) -> Path | None:
        """Return the path with the most evidence."""
        step = direction.step
        row_starts, rows = _grid(direction.query_times, step)
        column_starts, columns = _grid(direction.reference_times, step)
        padded = np.full((direction.evidence.shape[0] + 1, direction.evidence.shape[1] + 1), self.gap())
        padded[:-1, :-1] = direction.evidence
        gains = padded[np.ix_(rows, columns)] * step
        sums, arrivals = _accumulate(gains, self.step_cost * step)
        end = np.unravel_index(int(np.argmax(sums)), sums.shape)
        if sums[end] <= 0:
            return None
        down, across = _trace(arrivals, int(end[0]), int(end[1]))
        weights = np.maximum(gains[down, across], 0.0)
        line = fit_line(row_starts[down] + step / 2, column_starts[across] + step / 2, weights, self.prior_seconds)
        real = (rows[down] >= 0) & (columns[across] >= 0)
        cells = rows[down][real], columns[across][real]
        start = max(row_starts[down[0]], direction.query_times[0, 0])
        stop = min(row_starts[down[-1]] + step, direction.query_times[-1, 1])
        return Path(float(start), float(stop), *line, float(sums[end]), *cells)


def _grid(times: Array, step: float) -> tuple[Array, Indices]:
    """Return starts `step` seconds apart that cover `times`, and the frame in the middle of each, or -1."""
    count = max(1, round((times[-1, 1] - times[0, 0]) / step))
    starts = times[0, 0] + np.arange(count) * step
    frames = np.searchsorted(times[:, 0], starts + step / 2, side="right") - 1
    return starts, np.where(starts + step / 2 < times[frames, 1], frames, -1)


def _accumulate(gains: Array, cost: float) -> tuple[Array, NDArray[np.int8]]:
    """Return the best sum of a path that ends in each cell (0 for none), and the step by which it arrives there."""
    height, width = gains.shape
    # Two more rows and columns in front save the edges from being special.
    sums = np.zeros((height + 2, width + 2))
    arrivals = np.zeros((height, width), dtype=np.int8)
    ways = np.zeros((4, width))
    for row in range(height):
        before, two_before = sums[row + 1], sums[row]
        ways[BOTH] = before[1:-1]
        ways[TWO_COLUMNS] = before[:-2] - cost
        if row:
            begun = two_before[1:-1] > 0
            ways[TWO_ROWS] = np.where(begun, two_before[1:-1] + gains[row - 1] - cost, 0.0)
        arrivals[row] = ways.argmax(axis=0)
        total = ways.max(axis=0) + gains[row]
        np.maximum(total, 0.0, out=sums[row + 2, 2:])
        arrivals[row][total <= 0] = BEGIN
    return sums[2:, 2:], arrivals


def _trace(arrivals: NDArray[np.int8], row: int, column: int) -> tuple[Indices, Indices]:
    """Follow a path back to its beginning; return the rows and columns of its cells, first to last."""
    cells = []
    while True:
        cells.append((row, column))
        arrival = arrivals[row, column]
        if arrival == BOTH:
            row, column = row - 1, column - 1
        elif arrival == TWO_COLUMNS:
            row, column = row - 1, column - 2
        elif arrival == TWO_ROWS:
            cells.append((row - 1, column))
            row, column = row - 2, column - 1
        else:
            break
    path = np.array(cells[::-1], dtype=np.intp)
    return path[:, 0], path[:, 1]
