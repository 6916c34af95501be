"""Copied segments: an interval of the query, the interval of the reference that it shows, and a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


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
