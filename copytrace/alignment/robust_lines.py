"""The exact line, ends and evidence of a copied segment that is roughly known, from the heat map around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from copytrace.alignment.lines import Array

FITS = 4  # times that the line is fitted to the cells around it, and cut anew
BAND = 1.5  # frames: cells further from the line, measured across it, do not pull it
PRIOR = 1.0  # frames: speed 1 weighs as much as cells that span this, for two or three frames say nothing of speed
MARGIN = 4.0  # frames, besides a quarter of its length, that a segment may grow at either end per fit


@dataclass(frozen=True, slots=True)
class Line:
    """`reference = speed * query + offset` in seconds, speed above 0, between two seconds of either axis."""

    speed: float
    offset: float
    query: tuple[float, float]
    reference: tuple[float, float]

    def transposed(self) -> Line:
        """Return the line with query and reference exchanged."""
        return Line(1.0 / self.speed, -self.offset / self.speed, self.reference, self.query)


@dataclass(frozen=True)
class HeatMap:
    """Heat [Q, R], 0 to 1, with the start and end in seconds of its rows, `query` [Q, 2], and columns, `reference`."""

    heat: Array
    query: Array
    reference: Array

    @cached_property
    def middles(self) -> tuple[Array, Array]:
        """Middle of each row [Q] and column [R], seconds."""
        return self.query.mean(axis=1), self.reference.mean(axis=1)

    @cached_property
    def frames(self) -> tuple[float, float]:
        """Length of a typical row and column, seconds."""
        rows, columns = (float(np.median(times[:, 1] - times[:, 0])) for times in (self.query, self.reference))
        return rows, columns

    def transposed(self) -> HeatMap:
        """Return the map with query and reference exchanged."""
        return HeatMap(self.heat.T, self.reference, self.query)

    def mirrored(self) -> HeatMap:
        """Return the map of the reference played backwards: its seconds are negated."""
        return HeatMap(self.heat[:, ::-1], self.query, -self.reference[::-1, ::-1])

    def profile(self, line: Line) -> Array:
        """Return the heat of the line in each row [Q]: the hottest cell less than a frame from it."""
        row_length, column_length = self.frames
        reach = float(np.hypot(1.0, line.speed * row_length / column_length))  # columns, along a row
        expected = line.speed * self.middles[0] + line.offset
        nearest = np.searchsorted(self.middles[1], expected)
        columns = nearest[:, None] + np.arange(-int(reach) - 1, int(reach) + 2)
        inside = (columns >= 0) & (columns < self.heat.shape[1])
        columns = np.clip(columns, 0, self.heat.shape[1] - 1)
        inside &= np.abs(self.middles[1][columns] - expected[:, None]) < reach * column_length
        heat = self.heat[np.arange(len(expected))[:, None], columns]
        return np.asarray(np.where(inside, heat, 0.0).max(axis=1))


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where a line begins and ends, and what it is worth; `HeatMapRules` explains the three numbers."""

    threshold: float
    max_penalty: float
    end_share: float


def contrast(heat: Array, threshold: float, max_penalty: float) -> Array:
    """Return heat above the threshold, and below it a penalty: `-max_penalty` where it is black, in proportion else."""
    evidence = heat - threshold
    return np.asarray(np.where(evidence < 0.0, evidence * (max_penalty / threshold), evidence))


def refine_line(heat: HeatMap, line: Line, cutting: Cutting) -> tuple[Line, float] | None:
    """Return the exact line near a rough one, with its evidence in seconds; None where no heat is left along it.

    In turn, the line is fitted to the cells around it, and cut where its heat falls below `end_share` of what is
    typical of it. The evidence is the geometric mean of that of the rows and that of the columns: both axes are treated
    alike, so the transposed map has the transposed line.
    """
    evidence = 0.0
    for _ in range(FITS):
        line = _fit_line(heat, line)
        turned = heat.transposed(), line.transposed()
        rows, columns = _stretch(heat, line, cutting), _stretch(*turned, cutting)
        if rows is None or columns is None:
            return None
        evidence = float(np.sqrt(rows.evidence * columns.evidence))
        line = _cut(heat, line, rows, columns)
    return line, evidence


def _fit_line(heat: HeatMap, line: Line) -> Line:
    """Weighted total least squares, in frames: errors are measured across the line, not along either axis."""
    row_length, column_length = heat.frames
    rows, columns = (
        slice(*np.searchsorted(middles, (start - length, end + length)))
        for middles, (start, end), length in zip(heat.middles, (line.query, line.reference), heat.frames, strict=True)
    )
    query, reference = heat.middles[0][rows, None], heat.middles[1][None, columns]
    slope = line.speed * row_length / column_length
    across = (reference - line.speed * query - line.offset) / (column_length * np.hypot(1.0, slope))
    weights = heat.heat[rows, columns] * np.clip(1.0 - (across / BAND) ** 2, 0.0, None) ** 2
    total = float(weights.sum())
    if total <= 0.0:
        return line
    weights = weights / total
    at_query, at_reference = float((weights * query).sum()), float((weights * reference).sum())
    along, aside = (query - at_query) / row_length, (reference - at_reference) / column_length
    # The direction of speed 1, in frames, is (one over row_length, one over column_length).
    prior = PRIOR**2 / (row_length**2 + column_length**2)
    difference = float((weights * (along**2 - aside**2)).sum()) + prior * (column_length**2 - row_length**2)
    product = float((weights * along * aside).sum()) + prior * row_length * column_length
    speed = float(np.tan(np.arctan2(2.0 * product, difference) / 2.0)) * column_length / row_length
    if speed <= 0.0:
        return line
    return Line(speed, at_reference - speed * at_query, line.query, line.reference)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The first and last row of a line, and its evidence between them in seconds."""

    first: int
    last: int
    evidence: float


def _stretch(heat: HeatMap, line: Line, cutting: Cutting) -> _Stretch | None:
    """Return the rows with the largest sum of heat above the line's own level, near its present ends."""
    (start, end), times = line.query, heat.query
    margin = MARGIN * heat.frames[0] + (end - start) / 4
    near = slice(int(np.searchsorted(times[:, 1], start - margin)), int(np.searchsorted(times[:, 0], end + margin)))
    profile, times = heat.profile(line)[near], times[near]
    lit = (times[:, 1] > start) & (times[:, 0] < end) & (profile > cutting.threshold)
    if not lit.any():
        return None
    level = max(cutting.threshold, cutting.end_share * float(np.median(profile[lit])))
    seconds = times[:, 1] - times[:, 0]
    steps = np.zeros(2 * len(times) - 1)  # frame, gap, frame, gap, ..., frame
    steps[::2] = contrast(profile, level, cutting.max_penalty) * seconds
    steps[1::2] = -cutting.max_penalty * np.clip(times[1:, 0] - times[:-1, 1], 0.0, None)
    first, last = (place // 2 for place in _best_run(steps))
    rows = slice(first, last + 1)
    worth = np.clip(profile[rows] - cutting.threshold, 0.0, None) @ seconds[rows]
    return _Stretch(near.start + first, near.start + last, float(worth))


def _best_run(steps: Array) -> tuple[int, int]:
    """Return the first and last of the steps in a row that have the largest sum."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    lowest = np.minimum.accumulate(sums[:-1])
    last = int(np.argmax(sums[1:] - lowest))
    # The last of equal minima, so that a run does not begin with worthless steps.
    first = int(np.flatnonzero(sums[: last + 1] <= lowest[last])[-1])
    return first, last


def _cut(heat: HeatMap, line: Line, rows: _Stretch, columns: _Stretch) -> Line:
    """Cut the line where both axes agree that it begins and ends.

    A frame is lit if at least half of it is copied, so a copy ends between the middle of its last lit frame and that of
    the next one. The line ties the axes together, and the middle of what both of them allow is unbiased.
    """
    ends: list[tuple[float, float]] = []
    for allowed in (
        (_start(heat.query, rows.first), _start(heat.reference, columns.first)),
        (_end(heat.query, rows.last), _end(heat.reference, columns.last)),
    ):
        low, high = ((at - line.offset) / line.speed for at in allowed[1])
        at = (max(allowed[0][0], low) + min(allowed[0][1], high)) / 2
        shown = line.speed * at + line.offset
        ends.append((_clip(heat.query, at), _clip(heat.reference, shown)))
    (query_start, reference_start), (query_end, reference_end) = ends
    return Line(line.speed, line.offset, (query_start, query_end), (reference_start, reference_end))


def _end(times: Array, last: int) -> tuple[float, float]:
    """Between which seconds a copy ends whose last lit frame this is; with the video, if there is no other frame."""
    middle, end = float(times[last].mean()), float(times[last, 1])
    if last == len(times) - 1:
        return end, end
    next_middle = float(times[last + 1].mean())
    return middle, max(middle, min(next_middle, 2.0 * end - middle))  # seconds without a frame are not copied


def _start(times: Array, first: int) -> tuple[float, float]:
    low, high = _end(-times[::-1, ::-1], len(times) - 1 - first)
    return -high, -low


def _clip(times: Array, at: float) -> float:
    return min(max(at, float(times[0, 0])), float(times[-1, 1]))
