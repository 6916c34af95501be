"""What the training-free aligners share: evidence from similarities, and taking segments off a matrix one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from copytrace.alignment.lines import Array, Indices
from copytrace.alignment.segments import Segment, suppress_overlapping
from copytrace.alignment.similarity import SimilarityMatrix


@dataclass(frozen=True)
class Direction:
    """The evidence that is left, for the reference played forwards, or backwards (its times are negated then).

    `evidence` [Q, R] float64 is a view: what is explained in one direction is gone from the other.
    """

    evidence: Array
    query_times: Array
    reference_times: Array
    backwards: bool

    @cached_property
    def query_seconds(self) -> Array:
        """Length of each row [Q]."""
        return self.query_times[:, 1] - self.query_times[:, 0]

    @cached_property
    def query_centres(self) -> Array:
        """Middle of each row [Q], seconds."""
        return (self.query_times[:, 0] + self.query_times[:, 1]) / 2

    @cached_property
    def reference_centres(self) -> Array:
        """Middle of each column [R], seconds."""
        return (self.reference_times[:, 0] + self.reference_times[:, 1]) / 2

    @cached_property
    def step(self) -> float:
        """Length of a typical frame in seconds: the geometric mean of the two videos' medians."""
        reference_seconds = self.reference_times[:, 1] - self.reference_times[:, 0]
        return float(np.sqrt(np.median(self.query_seconds) * np.median(reference_seconds)))


@dataclass(frozen=True, slots=True)
class Path:
    """The best way through a matrix that an aligner sees: a line between two query seconds, and its cells [P]."""

    start: float
    end: float
    speed: float
    offset: float
    evidence: float
    rows: Indices
    columns: Indices


@dataclass(frozen=True)
class GreedyAligner(ABC):
    """Takes the best path of either direction off the matrix, with all that it explains, until none is worth it.

    A cell's evidence is its similarity less `threshold`, but never below `-max_penalty`, so that a few unseen frames
    do not end a segment. Along a path it adds up, per second of the query. Paths with less than `min_evidence` are
    not reported. The score is eᵏ / (eᵏ + hᵏ) with e the evidence, h `half_evidence` and k `sharpness`: a logistic model
    of the logarithm of the evidence. The two are fitted to the shipped descriptor: a segment that
    scores 0.7 is a copy seven times in ten.
    Backwards paths keep only `backwards_share` of theirs: a still shot fits both directions. Segments that overlap a
    better one by more than `max_overlap` (intersection over union) are dropped; at most `max_segments` are returned.
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
        """Return the segments of a pair of videos, best first; none for an empty matrix."""
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
        # No path can collect more than every row's best cell.
        while len(found) < self.max_segments and self._most(directions[0]) >= self.min_evidence:
            paths = [(path, search.direction) for search in searches if (path := search.best()) is not None]
            path, direction = max(paths, key=lambda pair: self._worth(*pair), default=(None, directions[0]))
            if path is None or self._worth(path, direction) < self.min_evidence:
                break
            found.append(self._segment(path, direction))
            _explain(direction.evidence, path.rows, path.columns, -self.max_penalty)
        return suppress_overlapping(found, self.max_overlap)

    @abstractmethod
    def find(self, direction: Direction) -> Path | None:
        """Return the best path, or None where there is none; leaves `direction` as it is."""

    def gap(self) -> float:
        """Evidence of a second without a frame: that of unrelated frames, similarity 0, at the most none."""
        return float(np.clip(-self.threshold, -self.max_penalty, 0.0))

    def _most(self, direction: Direction) -> float:
        return float(np.maximum(direction.evidence.max(axis=1), 0.0) @ direction.query_seconds)

    def _worth(self, path: Path, direction: Direction) -> float:
        return path.evidence * (self.backwards_share if direction.backwards else 1.0)

    def _segment(self, path: Path, direction: Direction) -> Segment:
        worth = self._worth(path, direction)
        first, last = direction.reference_times[0, 0], direction.reference_times[-1, 1]
        start, end = np.clip([path.speed * at + path.offset for at in (path.start, path.end)], first, last)
        score = 1.0 / (1.0 + (self.half_evidence / worth) ** self.sharpness)
        segment = Segment(float(path.start), float(path.end), float(start), float(end), float(score))
        return segment.mirrored() if direction.backwards else segment


class _Search:
    """Remembers the best path of a direction: evidence only shrinks, so a path that lost none is still the best."""

    def __init__(self, direction: Direction, find: Callable[[Direction], Path | None]) -> None:
        self.direction = direction
        self._find = find
        self._path = find(direction)
        self._evidence = self._left()

    def best(self) -> Path | None:
        """Return the best path of the evidence that is left, or None where there is none."""
        if self._left() < self._evidence:
            self._path = self._find(self.direction)
            self._evidence = self._left()
        return self._path

    def _left(self) -> float:
        path = self._path
        return float(self.direction.evidence[path.rows, path.columns].sum()) if path else 0.0


def _explain(evidence: Array, rows: Indices, columns: Indices, floor: float) -> None:
    """Set to `floor` the cells of a path, and the bright runs along rows and columns that they are part of.

    A still shot is a bright block: the path crosses it once, and the rest of it is no other copy.
    """
    bright = evidence > 0
    gone = np.zeros_like(bright)
    gone[rows, columns] = True
    lit = bright[rows, columns]
    for shining, explained, lines, cells in (
        (bright, gone, rows[lit], columns[lit]),
        (bright.T, gone.T, columns[lit], rows[lit]),
    ):
        runs = np.cumsum(~shining, axis=1)
        same_run = runs[lines] == runs[lines, cells][:, None]
        np.logical_or.at(explained, lines, shining[lines] & same_run)
    evidence[gone] = floor
