"""Dynamic programming: the best local alignment of two videos (Smith and Waterman, J. Mol. Biol. 1981)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.greedy_aligners import Direction, GreedyAligner, Path
from copytrace.alignment.segments import Float64s, Indices, fit_line

# Steps into a cell, in rows and columns from the one before. They keep the speed between 1/2 and 2.
BEGIN, BOTH, TWO_COLUMNS, TWO_ROWS = range(4)


@dataclass(frozen=True)
class DynamicProgrammingAligner(GreedyAligner):
    """An aligner that finds paths of any shape, whose speed stays between 1/2 and 2 from frame to frame.

    Frames without a match cost their negative evidence, so a second of gap costs at most `max_penalty`. Each step of
    speed 2 or 1/2 costs `step_cost` per second. Frames are resampled to a grid of their typical length first, so that
    steps are in seconds. A segment's reference times are those of the line through its path; the speed of the line is
    pulled towards 1 as strongly as by points that span `prior_seconds`.
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


def _grid(times: Float64s, step: float) -> tuple[Float64s, Indices]:
    """Return the starts, `step` seconds apart, of intervals that cover `times`, and the frame in each middle, or -1."""
    count = max(1, round((times[-1, 1] - times[0, 0]) / step))
    starts = times[0, 0] + np.arange(count) * step
    frames = np.searchsorted(times[:, 0], starts + step / 2, side="right") - 1
    return starts, np.where(starts + step / 2 < times[frames, 1], frames, -1)


def _accumulate(gains: Float64s, cost: float) -> tuple[Float64s, NDArray[np.int8]]:
    """Return for each cell the largest sum of a path that ends there (0 without one), and the path's last step."""
    height, width = gains.shape
    # Two rows and columns of padding avoid special cases at the edges.
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
    """Return the rows and columns of the cells of the path that ends in a cell, first to last."""
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
