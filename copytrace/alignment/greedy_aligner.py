"""Base of the training-free aligners: evidence from similarities, and greedy removal of segments one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from copytrace.alignment.lines import Float64s, Indices
from copytrace.alignment.segments import Segment, suppress_overlapping
from copytrace.alignment.similarity import SimilarityMatrix


@dataclass(frozen=True)
class Direction:
    """The remaining evidence for the reference played forwards or, with negated times, backwards.

    `evidence` [Q, R] float64 is a view: evidence removed in one direction is also removed in the other.
    """

    evidence: Float64s
    query_times: Float64s
    reference_times: Float64s
    backwards: bool

    @cached_property
    def query_seconds(self) -> Float64s:
        """Length of each row [Q], seconds."""
        return self.query_times[:, 1] - self.query_times[:, 0]

    @cached_property
    def query_centers(self) -> Float64s:
        """Middle of each row [Q], seconds."""
        return (self.query_times[:, 0] + self.query_times[:, 1]) / 2

    @cached_property
    def reference_centers(self) -> Float64s:
        """Middle of each column [R], seconds."""
        return (self.reference_times[:, 0] + self.reference_times[:, 1]) / 2

    @cached_property
    def step(self) -> float:
        """Length of a typical frame in seconds: the geometric mean of the two videos' medians."""
        reference_seconds = self.reference_times[:, 1] - self.reference_times[:, 0]
        return float(np.sqrt(np.median(self.query_seconds) * np.median(reference_seconds)))


@dataclass(frozen=True, slots=True)
class Path:
    """The best path through a matrix: a line between two query seconds, and its cells [P]."""

    start: float
    end: float
    speed: float
    offset: float
    evidence: float
    rows: Indices
    columns: Indices


@dataclass(frozen=True)
class GreedyAligner(ABC):
    """Base of aligners that repeatedly find the best path of either direction and remove it from the matrix.

    The evidence of a cell is its similarity minus `threshold`, but at least `-max_penalty`, so that a few frames
    without a match do not end a segment. The evidence of a path is the sum over its cells, per second of the query.
    Paths with less than `min_evidence` are not reported.

    The score is eᵏ / (eᵏ + hᵏ), where e is the evidence, h is `half_evidence` and k is `sharpness`: a logistic model of
    the logarithm of the evidence. Both defaults are fitted to the shipped descriptor, so that seven in ten segments
    with a score of 0.7 are copies.

    Only `backwards_share` of the evidence of backwards paths counts, because a still shot fits both directions.
    Segments that overlap a better one by more than `max_overlap` (intersection over union) are dropped; at most
    `max_segments` are returned.
    """

    threshold: float = -0.1
    max_penalty: float = 0.1
    min_evidence: float = 0.5
    half_evidence: float = 2.6
    sharpness: float = 4.0
    backwards: bool = True
    backwards_share: float = 0.8
    max_overlap: float = 0.8
    max_segments: int = 16

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair of videos, best first; an empty matrix has none."""
        if not matrix.values.size:
            return []
        evidence = np.clip(matrix.values.astype(np.float64) - self.threshold, -self.max_penalty, None)
        if not (evidence > 0).any():
            return []
        directions = [Direction(evidence, matrix.query_times, matrix.reference_times, False)]
        if self.backwards:
            mirrored = -matrix.reference_times[::-1, ::-1]
            directions.append(Direction(evidence[:, ::-1], matrix.query_times, mirrored, True))
        searches = [_Search(direction, self.find) for direction in directions]
        found: list[Segment] = []
        # The best cells of all rows bound the evidence of any path.
        while len(found) < self.max_segments and self._max_evidence(directions[0]) >= self.min_evidence:
            paths = [(path, search.direction) for search in searches if (path := search.best()) is not None]
            path, direction = max(paths, key=lambda pair: self._worth(*pair), default=(None, directions[0]))
            if path is None or self._worth(path, direction) < self.min_evidence:
                break
            found.append(self._segment(path, direction))
            _remove_path(direction.evidence, path.rows, path.columns, -self.max_penalty)
        return suppress_overlapping(found, self.max_overlap)

    @abstractmethod
    def find(self, direction: Direction) -> Path | None:
        """Return the best path, or None if there is none; do not change `direction`."""

    def gap(self) -> float:
        """Return the evidence of a second without a frame: that of similarity 0 (unrelated frames), but not above 0."""
        return float(np.clip(-self.threshold, -self.max_penalty, 0.0))

    def _max_evidence(self, direction: Direction) -> float:
        return float(np.maximum(direction.evidence.max(axis=1), 0.0) @ direction.query_seconds)

    def _worth(self, path: Path, direction: Direction) -> float:
        return path.evidence * (self.backwards_share if direction.backwards else 1.0)

    def _segment(self, path: Path, direction: Direction) -> Segment:
        worth = self._worth(path, direction)
        first, last = direction.reference_times[0, 0], direction.reference_times[-1, 1]
        start, end = np.clip([path.speed * second + path.offset for second in (path.start, path.end)], first, last)
        score = 1.0 / (1.0 + (self.half_evidence / worth) ** self.sharpness)
        segment = Segment(float(path.start), float(path.end), float(start), float(end), float(score))
        return segment.mirror() if direction.backwards else segment


class _Search:
    """A cached search for the best path: evidence only shrinks, so a path that lost none is still the best."""

    def __init__(self, direction: Direction, find: Callable[[Direction], Path | None]) -> None:
        self.direction = direction
        self._find = find
        self._path = find(direction)
        self._evidence = self._path_evidence()

    def best(self) -> Path | None:
        """Return the best path through the remaining evidence, or None if there is none."""
        if self._path_evidence() < self._evidence:
            self._path = self._find(self.direction)
            self._evidence = self._path_evidence()
        return self._path

    def _path_evidence(self) -> float:
        path = self._path
        return float(self.direction.evidence[path.rows, path.columns].sum()) if path else 0.0


def _remove_path(evidence: Float64s, rows: Indices, columns: Indices, floor: float) -> None:
    """Set the cells of a path to `floor`, with the runs of positive evidence around them along rows and columns.

    A still shot is a block of positive evidence; the path crosses it once, and the rest of it is not another copy.
    """
    positive = evidence > 0
    removed = np.zeros_like(positive)
    removed[rows, columns] = True
    lit = positive[rows, columns]
    for bright, marks, lines, cells in (
        (positive, removed, rows[lit], columns[lit]),
        (positive.T, removed.T, columns[lit], rows[lit]),
    ):
        runs = np.cumsum(~bright, axis=1)
        same_run = runs[lines] == runs[lines, cells][:, None]
        np.logical_or.at(marks, lines, bright[lines] & same_run)
    evidence[removed] = floor
