"""The exact line, ends and evidence of a roughly known segment, from the heat map around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from copytrace.alignment.segments import Float64s

FITS = 4  # times that the line is fitted to the cells around it and cut
BAND = 1.5  # frames across the line; cells at a greater distance have no weight
PRIOR = 1.0  # frames; speed 1 weighs as much as cells that span this, since few frames do not determine a speed
MARGIN = 4.0  # frames, besides a quarter of its length, that a segment may grow at each end per fit


@dataclass(frozen=True, slots=True)
class Line:
    """`reference = speed * query + offset` in seconds, speed above 0, between two seconds of either axis."""

    speed: float
    offset: float
    query: tuple[float, float]
    reference: tuple[float, float]

    def transpose(self) -> Line:
        """Return the line with query and reference exchanged."""
        return Line(1.0 / self.speed, -self.offset / self.speed, self.reference, self.query)


@dataclass(frozen=True)
class HeatMap:
    """Heat [Q, R], 0 to 1, with the start and end in seconds of its rows, `query` [Q, 2], and columns, `reference`."""

    heat: Float64s
    query: Float64s
    reference: Float64s

    @cached_property
    def middles(self) -> tuple[Float64s, Float64s]:
        """Middle of each row [Q] and column [R], seconds."""
        return self.query.mean(axis=1), self.reference.mean(axis=1)

    @cached_property
    def frames(self) -> tuple[float, float]:
        """Length of a typical row and column, seconds."""
        rows, columns = (float(np.median(times[:, 1] - times[:, 0])) for times in (self.query, self.reference))
        return rows, columns

    def transpose(self) -> HeatMap:
        """Return the map with query and reference exchanged."""
        return HeatMap(self.heat.T, self.reference, self.query)

    def mirror(self) -> HeatMap:
        """Return the map of the reference played backwards: its seconds are negated."""
        return HeatMap(self.heat[:, ::-1], self.query, -self.reference[::-1, ::-1])

    def profile(self, line: Line) -> Float64s:
        """Return the heat of the line in each row [Q]: the largest of the cells less than a frame away."""
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
class CutRules:
    """Rules for the ends and the evidence of a line; see `HeatMapRules`."""

    threshold: float
    max_penalty: float
    end_share: float


def contrast(heat: Float64s, threshold: float, max_penalty: float) -> Float64s:
    """Return heat minus the threshold; negative values are scaled so that heat 0 gives `-max_penalty`."""
    evidence = heat - threshold
    return np.asarray(np.where(evidence < 0.0, evidence * (max_penalty / threshold), evidence))


def refine_line(heat: HeatMap, line: Line, rules: CutRules) -> tuple[Line, float] | None:
    """Return the exact line near a rough one, with its evidence in seconds; None if there is no heat along it.

    The line is repeatedly fitted to the cells around it, and cut where its heat falls below `end_share` of its median.
    The evidence is the geometric mean of the evidence of rows and of columns. Both axes are treated alike, so the
    transposed map has the transposed line.
    """
    evidence = 0.0
    for _ in range(FITS):
        line = _fit_line(heat, line)
        transposed = heat.transpose(), line.transpose()
        rows, columns = _best_span(heat, line, rules), _best_span(*transposed, rules)
        if rows is None or columns is None:
            return None
        evidence = float(np.sqrt(rows.evidence * columns.evidence))
        line = _cut(heat, line, rows, columns)
    return line, evidence


def _fit_line(heat: HeatMap, line: Line) -> Line:
    """Fit a line by weighted total least squares, with errors in frames across the line, not along an axis."""
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
    mean_query, mean_reference = float((weights * query).sum()), float((weights * reference).sum())
    along, aside = (query - mean_query) / row_length, (reference - mean_reference) / column_length
    # The direction of speed 1, in frames, is (one over row_length, one over column_length).
    prior = PRIOR**2 / (row_length**2 + column_length**2)
    difference = float((weights * (along**2 - aside**2)).sum()) + prior * (column_length**2 - row_length**2)
    product = float((weights * along * aside).sum()) + prior * row_length * column_length
    speed = float(np.tan(np.arctan2(2.0 * product, difference) / 2.0)) * column_length / row_length
    if speed <= 0.0:
        return line
    return Line(speed, mean_reference - speed * mean_query, line.query, line.reference)


@dataclass(frozen=True, slots=True)
class _Span:
    """The first and last row of a line, and the evidence between them in seconds."""

    first: int
    last: int
    evidence: float


def _best_span(heat: HeatMap, line: Line, rules: CutRules) -> _Span | None:
    """Return the rows, near the line's ends, with the largest sum of heat above the line's own level."""
    (start, end), times = line.query, heat.query
    margin = MARGIN * heat.frames[0] + (end - start) / 4
    near = slice(int(np.searchsorted(times[:, 1], start - margin)), int(np.searchsorted(times[:, 0], end + margin)))
    profile, times = heat.profile(line)[near], times[near]
    lit = (times[:, 1] > start) & (times[:, 0] < end) & (profile > rules.threshold)
    if not lit.any():
        return None
    level = max(rules.threshold, rules.end_share * float(np.median(profile[lit])))
    seconds = times[:, 1] - times[:, 0]
    steps = np.zeros(2 * len(times) - 1)  # frame, gap, frame, gap, ..., frame
    steps[::2] = contrast(profile, level, rules.max_penalty) * seconds
    steps[1::2] = -rules.max_penalty * np.clip(times[1:, 0] - times[:-1, 1], 0.0, None)
    first, last = (place // 2 for place in _best_run(steps))
    rows = slice(first, last + 1)
    worth = np.clip(profile[rows] - rules.threshold, 0.0, None) @ seconds[rows]
    return _Span(near.start + first, near.start + last, float(worth))


def _best_run(steps: Float64s) -> tuple[int, int]:
    """Return the first and the last of the consecutive steps with the largest sum."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    lowest = np.minimum.accumulate(sums[:-1])
    last = int(np.argmax(sums[1:] - lowest))
    # The last of equal minima, so that a run does not begin with steps that sum to 0.
    first = int(np.flatnonzero(sums[: last + 1] <= lowest[last])[-1])
    return first, last


def _cut(heat: HeatMap, line: Line, rows: _Span, columns: _Span) -> Line:
    """Cut the line at the start and end on which both axes agree.

    A frame is hot if at least half of it is copied, so a copy ends between the middle of its last hot frame and that of
    the next one. The line connects the axes; the middle of the interval that both allow is unbiased.
    """
    ends: list[tuple[float, float]] = []
    for allowed in (
        (_start(heat.query, rows.first), _start(heat.reference, columns.first)),
        (_end(heat.query, rows.last), _end(heat.reference, columns.last)),
    ):
        low, high = ((second - line.offset) / line.speed for second in allowed[1])
        end = (max(allowed[0][0], low) + min(allowed[0][1], high)) / 2
        reference = line.speed * end + line.offset
        ends.append((_clip(heat.query, end), _clip(heat.reference, reference)))
    (query_start, reference_start), (query_end, reference_end) = ends
    return Line(line.speed, line.offset, (query_start, query_end), (reference_start, reference_end))


def _end(times: Float64s, last: int) -> tuple[float, float]:
    """Return the earliest and latest end of a copy with this last hot frame; the video's end after its last frame."""
    middle, end = float(times[last].mean()), float(times[last, 1])
    if last == len(times) - 1:
        return end, end
    next_middle = float(times[last + 1].mean())
    return middle, max(middle, min(next_middle, 2.0 * end - middle))  # seconds without a frame are not copied


def _start(times: Float64s, first: int) -> tuple[float, float]:
    low, high = _end(-times[::-1, ::-1], len(times) - 1 - first)
    return -high, -low


def _clip(times: Float64s, second: float) -> float:
    return min(max(second, float(times[0, 0])), float(times[-1, 1]))
