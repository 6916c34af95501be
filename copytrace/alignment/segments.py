"""Copied segments, the similarity matrices in which they are found, and straight lines through these.

A segment is an interval of the query, the interval of the reference that it shows, and a score. A line is
`reference = speed * query + offset` in seconds. The value of a cell holds for the whole time of its frames, so the
evidence of a line is an exact integral over the cells that it crosses, whatever the lengths of frames. It is measured
in seconds of the query, so a faster line gains nothing by covering more of the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SimilarityMatrix:
    """The similarity of every frame of a query to every frame of a reference.

    `values` is float32 [Q, R], about 0 for unrelated frames and up to about 1 for equal ones (score-normalized
    cosines). `query_times` [Q, 2] and `reference_times` [R, 2] are the start and end of each row and column in
    seconds, float64, sorted by start; frames may differ in length, and there may be gaps between them. Raises
    `ValueError` if the shapes do not fit, if values or times are not finite, or if times are not sorted.
    """

    values: NDArray[np.float32]
    query_times: NDArray[np.float64]
    reference_times: NDArray[np.float64]

    def __post_init__(self) -> None:
        expected = (len(self.query_times), len(self.reference_times))
        if self.values.shape != expected:
            raise ValueError(f"similarity matrix is {self.values.shape}, but its times are for {expected}")
        if not np.isfinite(self.values).all():
            raise ValueError("similarity matrix has NaN or infinity; drop the frames without a descriptor")
        _check_times("query", self.query_times)
        _check_times("reference", self.reference_times)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (query frames) and columns (reference frames)."""
        return len(self.query_times), len(self.reference_times)

    def transpose(self) -> SimilarityMatrix:
        """Return the matrix with query and reference exchanged."""
        return SimilarityMatrix(self.values.T, self.reference_times, self.query_times)

    def part(self, rows: slice, columns: slice) -> SimilarityMatrix:
        """Return a view of some rows and columns."""
        return SimilarityMatrix(self.values[rows, columns], self.query_times[rows], self.reference_times[columns])


def _check_times(axis: str, times: NDArray[np.float64]) -> None:
    if times.ndim != 2 or times.shape[1] != 2:
        raise ValueError(f"{axis} times are {times.shape}, not [frames, 2]: the start and end of every frame")
    if not np.isfinite(times).all():
        raise ValueError(f"{axis} times have NaN or infinity; give every frame a start and an end in seconds")
    if (times[:, 0] >= times[:, 1]).any():
        raise ValueError(f"{axis} times have a frame that does not end after it starts; give every frame a length")
    if (np.diff(times[:, 0]) <= 0).any():
        raise ValueError(f"{axis} times are not ascending; sort the frames by start")


@dataclass(frozen=True, slots=True)
class Segment:
    """A copied segment in seconds; start < end on both axes, even if the copy plays backwards (`reversed`).

    `score` ranks the segments of all pairs of a set: higher is more certain, 0 to 1 from the aligners of this package.
    """

    query_start: float
    query_end: float
    reference_start: float
    reference_end: float
    score: float
    reversed: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Query start and end, reference start and end."""
        return self.query_start, self.query_end, self.reference_start, self.reference_end

    @property
    def speed(self) -> float:
        """Seconds of reference per second of query, above 0."""
        return (self.reference_end - self.reference_start) / (self.query_end - self.query_start)

    def mirror(self) -> Segment:
        """Return the segment on the negated reference axis, with `reversed` inverted."""
        start, end = -self.reference_end, -self.reference_start
        return replace(self, reference_start=start, reference_end=end, reversed=not self.reversed)

    def reference_at(self, query_time: float) -> float:
        """Return the reference second shown at a query second; outside the segment, its line is extended."""
        if self.reversed:
            return self.reference_end - self.speed * (query_time - self.query_start)
        return self.reference_start + self.speed * (query_time - self.query_start)


def box_overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of every box of `first` [N, 4] with every box of `second` [M, 4]: [N, M].

    A box is query start, query end, reference start, reference end; the area of a box is in square seconds.
    """
    starts = np.maximum(first[:, None, 0::2], second[None, :, 0::2])
    ends = np.minimum(first[:, None, 1::2], second[None, :, 1::2])
    shared = np.clip(ends - starts, 0.0, None).prod(axis=2)
    areas = [(boxes[:, 1::2] - boxes[:, 0::2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0))


def suppress_overlapping(segments: Iterable[Segment], max_overlap: float) -> list[Segment]:
    """Return the segments best first, without those that overlap a better one by more than `max_overlap` (0 to 1)."""
    ranked = sorted(segments, key=lambda segment: -segment.score)
    if len(ranked) < 2:
        return ranked
    boxes = np.array([segment.box for segment in ranked])
    overlaps = box_overlaps(boxes, boxes)
    kept: list[int] = []
    for index in range(len(ranked)):
        if not kept or overlaps[index, kept].max() <= max_overlap:
            kept.append(index)
    return [ranked[index] for index in kept]


def merge_pieces(segments: Sequence[Segment], tolerance: float) -> list[Segment]:
    """Return the segments, best first, after joining pieces of one line.

    Two pieces belong to one line if they play in the same direction, overlap or touch within `tolerance` seconds on
    both axes, and have lines within `tolerance` seconds of each other where they meet. The odds of the result (score
    over one minus score) are the sum of the pieces' odds, reduced by the share of time that both cover.
    """
    remaining = sorted(segments, key=lambda segment: segment.query_start)
    merged: list[Segment] = []
    while remaining:
        whole = remaining.pop(0)
        rest = []
        for piece in remaining:
            if _are_pieces(whole, piece, tolerance):
                whole = _join(whole, piece)
            else:
                rest.append(piece)
        merged.append(whole)
        remaining = rest
    return sorted(merged, key=lambda segment: -segment.score)


def _are_pieces(first: Segment, second: Segment, tolerance: float) -> bool:
    if first.reversed != second.reversed:
        return False
    apart = max(
        max(first.query_start, second.query_start) - min(first.query_end, second.query_end),
        max(first.reference_start, second.reference_start) - min(first.reference_end, second.reference_end),
    )
    if apart > tolerance:
        return False
    # Lines are compared where the pieces meet; far away, a small error of speed is a large distance.
    meeting = (max(first.query_start, second.query_start) + min(first.query_end, second.query_end)) / 2
    return abs(first.reference_at(meeting) - second.reference_at(meeting)) <= tolerance


def _join(first: Segment, second: Segment) -> Segment:
    return Segment(
        min(first.query_start, second.query_start),
        max(first.query_end, second.query_end),
        min(first.reference_start, second.reference_start),
        max(first.reference_end, second.reference_end),
        _join_scores(first, second),
        first.reversed,
    )


def _join_scores(first: Segment, second: Segment) -> float:
    best = max(first.score, second.score)
    if best >= 1.0:
        return best
    lengths = [piece.query_end - piece.query_start for piece in (first, second)]
    shared = min(first.query_end, second.query_end) - max(first.query_start, second.query_start)
    odds = sum(piece.score / (1.0 - piece.score) for piece in (first, second))
    odds *= 1.0 - max(0.0, shared) / sum(lengths)
    return max(best, odds / (1.0 + odds))


@dataclass(frozen=True, slots=True)
class Cuts:
    """The best interval of each of L lines: query seconds [L], and its evidence [L], 0 if there is none."""

    starts: Float64s
    ends: Float64s
    evidence: Float64s


class Plane:
    """Evidence over the plane of query and reference seconds: constant in each cell, `gap` where a frame is missing.

    `evidence` is [Q, R]; `query_times` [Q, 2] and `reference_times` [R, 2] are in seconds, ascending.
    """

    def __init__(self, evidence: Float64s, query_times: Float64s, reference_times: Float64s, gap: float) -> None:
        self._evidence, self._times, self._gap = evidence, (query_times, reference_times), gap
        self._padded = np.full((evidence.shape[0] + 1, evidence.shape[1] + 1), gap)
        self._padded[:-1, :-1] = evidence
        self._edges = np.unique(query_times), np.unique(reference_times)
        self._frames = (
            _frames_between(self._edges[0], query_times),
            _frames_between(self._edges[1], reference_times),
        )

    def cut(self, speeds: Float64s, offsets: Float64s) -> Cuts:
        """Cut each of L lines (speeds above 0) to the interval with the most evidence."""
        borders = self._borders(speeds, offsets)
        rows, columns = self._cells(borders, speeds, offsets)
        sums = np.zeros_like(borders)
        np.cumsum(self._padded[rows, columns] * np.diff(borders, axis=1), axis=1, out=sums[:, 1:])
        lowest = np.minimum.accumulate(sums, axis=1)
        # The last of equal minima, so that an interval does not begin with seconds without evidence.
        lowest_at = np.maximum.accumulate(np.where(sums <= lowest, np.arange(sums.shape[1]), 0), axis=1)
        line, last = np.arange(len(speeds)), np.argmax(sums - lowest, axis=1)
        first = lowest_at[line, last]
        return Cuts(borders[line, first], borders[line, last], sums[line, last] - sums[line, first])

    def cut_one(self, speed: float, offset: float) -> tuple[float, float]:
        """Return the query seconds of the best interval of one line."""
        cut = self.cut(np.array([speed]), np.array([offset]))
        return float(cut.starts[0]), float(cut.ends[0])

    def crop(self, query: tuple[float, float], reference: tuple[float, float]) -> Plane:
        """Return the part of the plane whose frames touch these intervals of query and reference seconds."""
        rows, columns = (
            slice(*np.searchsorted(times[:, 0], interval))
            for times, interval in zip(self._times, (query, reference), strict=True)
        )
        rows, columns = (slice(max(0, part.start - 1), part.stop) for part in (rows, columns))
        return Plane(self._evidence[rows, columns], self._times[0][rows], self._times[1][columns], self._gap)

    def cells_under(self, speed: float, offset: float, start: float, end: float) -> tuple[Indices, Indices]:
        """Return the rows [P] and columns [P] that a line crosses between two query seconds."""
        speeds, offsets = np.array([speed]), np.array([offset])
        borders = self._borders(speeds, offsets)
        rows, columns = self._cells(borders, speeds, offsets)
        centers = (borders[0, 1:] + borders[0, :-1]) / 2
        inside = (np.diff(borders[0]) > 0) & (centers > start) & (centers < end)
        inside &= (rows[0] >= 0) & (columns[0] >= 0)
        return rows[0, inside], columns[0, inside]

    def _borders(self, speeds: Float64s, offsets: Float64s) -> Float64s:
        """Return the query seconds at which each line enters another cell [L, K]; repeated outside the plane."""
        query, reference = self._edges
        crossed = (reference[None, :] - offsets[:, None]) / speeds[:, None]
        borders = np.concatenate([np.broadcast_to(query, (len(speeds), len(query))), crossed], axis=1)
        low = np.maximum(query[0], crossed[:, :1])
        high = np.maximum(np.minimum(query[-1], crossed[:, -1:]), low)
        return np.sort(np.clip(borders, low, high), axis=1)

    def _cells(self, borders: Float64s, speeds: Float64s, offsets: Float64s) -> tuple[Indices, Indices]:
        centers = (borders[:, 1:] + borders[:, :-1]) / 2
        seconds = centers, speeds[:, None] * centers + offsets[:, None]
        rows, columns = (
            frames[np.clip(np.searchsorted(edges, times.ravel(), side="right") - 1, 0, len(frames) - 1)]
            for edges, frames, times in zip(self._edges, self._frames, seconds, strict=True)
        )
        return rows.reshape(centers.shape), columns.reshape(centers.shape)


def fit_line(query: Float64s, reference: Float64s, weights: Float64s, prior: float) -> tuple[float, float]:
    """Return the speed and offset of the weighted least-squares line through points [N] in seconds.

    The speed is pulled towards 1 as strongly as by points that span `prior` seconds, because a few frames, or a still
    shot, do not determine it.
    """
    share = weights / weights.sum()
    mean_query, mean_reference = float(share @ query), float(share @ reference)
    along = query - mean_query
    speed = float((share @ (along * (reference - mean_reference)) + prior**2) / (share @ along**2 + prior**2))
    return speed, mean_reference - speed * mean_query


def _frames_between(edges: Float64s, times: Float64s) -> Indices:
    """Return the frame that covers each interval between two edges, the latest of several; -1 (the padding) if none."""
    centers = (edges[1:] + edges[:-1]) / 2
    frames = np.searchsorted(times[:, 0], centers, side="right") - 1
    return np.where(centers < times[frames, 1], frames, -1)
