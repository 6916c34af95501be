"""Aligners without training: greedy removal of segments one by one from the evidence in similarities.

Hough voting finds straight lines; `dynamic_programming` finds paths of any shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import ndimage

from copytrace.alignment.distinct_evidence import distinct_evidence
from copytrace.alignment.segments import Float64s, Indices, Plane, Segment, SimilarityMatrix, suppress_overlapping
from copytrace.alignment.turns import find_turns

PEAKS = 8  # lines with the most votes that are cut and compared
VOTES_AT_ONCE = 1_000_000  # bounds the memory of the vote; a vote takes about 50 bytes
GROWTHS = 8  # most times that a line is refined again because it became longer
REFINEMENTS = 3  # grids around the best line, each half as wide as the one before


@dataclass(frozen=True)
class Direction:
    """The remaining evidence for the reference played forwards or, with negated times, backwards.

    `evidence` [Q, R] float64 is a view: evidence removed in one direction is also removed in the other.
    """

    evidence: Float64s
    query_times: Float64s
    reference_times: Float64s
    backwards: bool

    def part(self, rows: slice) -> Direction:
        """Return the direction of some rows of the query, with a view of their evidence."""
        return Direction(self.evidence[rows], self.query_times[rows], self.reference_times, self.backwards)

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
    Paths with less than `min_evidence` are not reported. A path on which the query turns, as in a loop or a boomerang,
    is replaced by the best path of each part; a turn must gain `turn_cost`, in frames of full evidence.

    The score is eᵏ / (eᵏ + hᵏ), where e is the distinct evidence, h is `half_evidence` and k is `sharpness`: a logistic
    model of the logarithm of the evidence. Both defaults are fitted to the shipped descriptor, so that seven in ten
    segments with a score of 0.7 are copies.

    Only `backwards_share` of the evidence of backwards paths counts, because a still shot fits both directions.
    Segments that overlap a better one by more than `max_overlap` (intersection over union) are dropped, and so are
    those that prove nothing, unless there is no other: the first of them is returned then, with the score 0. At most
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
    turn_cost: float = 0.7

    def align(self, matrix: SimilarityMatrix, likeness: SimilarityMatrix | None = None) -> list[Segment]:
        """Return the segments of a pair of videos, best first; an empty matrix has none.

        `likeness`, by default `matrix`, has the similarities that tell how distinct the evidence of a segment is.
        """
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
            for piece, part in self._pieces(path, direction, directions):
                found.append(self._segment(piece, part, likeness or matrix))
                _remove_path(part.evidence, piece.rows, piece.columns, -self.max_penalty)
            direction.evidence[path.rows, path.columns] = -self.max_penalty
        proven = [segment for segment in found if segment.score > 0.0]
        return suppress_overlapping(proven, self.max_overlap)[: self.max_segments] or found[:1]

    @abstractmethod
    def find(self, direction: Direction) -> Path | None:
        """Return the best path, or None if there is none; do not change `direction`."""

    def gap(self) -> float:
        """Return the evidence of a second without a frame: that of similarity 0 (unrelated frames), but not above 0."""
        return float(np.clip(-self.threshold, -self.max_penalty, 0.0))

    def _pieces(
        self, path: Path, direction: Direction, directions: Sequence[Direction]
    ) -> Iterator[tuple[Path, Direction]]:
        """Yield the path, or if the query turns on it, the best path of each part that it touches."""
        first, last = int(path.rows[0]), int(path.rows[-1]) + 1
        start, stop = max(0, 2 * first - last), min(2 * last - first, len(direction.evidence))
        shift = direction.query_seconds[start:stop].mean() / np.median(np.diff(direction.reference_times))
        turns = [start + turn for turn in find_turns(directions[0].evidence[start:stop], shift, self.turn_cost)]
        if not any(first < turn < last for turn in turns):
            yield path, direction
            return
        for begin, end in pairwise([start, *turns, stop]):
            if begin < last and end > first:
                parts = [each.part(slice(begin, end)) for each in directions]
                found = [(piece, part) for part in parts if (piece := self.find(part)) is not None]
                best = max(found, key=lambda pair: self._worth(*pair), default=None)
                if best is not None and self._worth(*best) >= self.min_evidence:
                    yield best

    def _max_evidence(self, direction: Direction) -> float:
        return float(np.maximum(direction.evidence.max(axis=1), 0.0) @ direction.query_seconds)

    def _worth(self, path: Path, direction: Direction) -> float:
        return path.evidence * (self.backwards_share if direction.backwards else 1.0)

    def _segment(self, path: Path, direction: Direction, likeness: SimilarityMatrix) -> Segment:
        worth = self._worth(path, direction)
        first, last = direction.reference_times[0, 0], direction.reference_times[-1, 1]
        start, end = np.clip([path.speed * second + path.offset for second in (path.start, path.end)], first, last)
        segment = Segment(float(path.start), float(path.end), float(start), float(end), 0.0)
        segment = segment.mirror() if direction.backwards else segment
        odds = distinct_evidence(worth / self.half_evidence, segment, likeness) ** self.sharpness
        return replace(segment, score=odds / (1.0 + odds))


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


@dataclass(frozen=True)
class HoughAligner(GreedyAligner):
    """An aligner for straight segments: it votes for lines, cuts the best to their best interval, and refines one.

    The vote has `speeds` speeds, spaced evenly in the logarithm from `1 / max_speed` to `max_speed`; an odd number
    includes speed 1. The evidence of a line of speed 2 or 1/2 is reduced by the share `speed_cost`. The result is the
    mean of the lines nearly as good as the best; `temperature` is the difference of evidence that counts as near.
    """

    speeds: int = 25
    max_speed: float = 2.0
    speed_cost: float = 0.2
    temperature: float = 0.1

    def find(self, direction: Direction) -> Path | None:
        """Return the line with the most evidence."""
        speeds, offsets = self._vote(direction)
        if not len(speeds):
            return None
        plane = Plane(direction.evidence, direction.query_times, direction.reference_times, self.gap())
        worth = self._lines_worth(plane, speeds, offsets)
        best = int(np.argmax(worth))
        if worth[best] < self.min_evidence:
            return None
        speed, offset = self._extend(plane, float(speeds[best]), float(offsets[best]), direction.step)
        start, end = plane.cut_one(speed, offset)
        if start >= end:
            return None
        evidence = float(self._lines_worth(plane, np.array([speed]), np.array([offset]))[0])
        return Path(start, end, speed, offset, evidence, *plane.cells_under(speed, offset, start, end))

    def _extend(self, plane: Plane, speed: float, offset: float, step: float) -> tuple[float, float]:
        """Refine a line until its interval stops growing; the speeds of the vote are too coarse for long segments."""
        reach = 2.0 * np.log(self.max_speed) / max(1, self.speeds - 1)
        start, end = plane.cut_one(speed, offset)
        for _ in range(GROWTHS):
            speed, offset = self._refine(self._neighborhood(plane, speed, offset, step), speed, offset, step, reach)
            before, (start, end) = end - start, plane.cut_one(speed, offset)
            if end - start < 1.3 * before or end - start < 4.0 * step / reach:
                break
            reach = 4.0 * step / (end - start)  # two frames at either end
        return speed, offset

    def _neighborhood(self, plane: Plane, speed: float, offset: float, step: float) -> Plane:
        """Return the part of the plane that a refined line may reach: twice its interval, and some frames more."""
        start, end = plane.cut_one(speed, offset)
        margin = (end - start) / 2 + 8.0 * step
        reference = speed * np.array([start, end]) + offset + np.array([-margin, margin]) * max(1.0, speed)
        return plane.crop((start - margin, end + margin), (float(reference[0]), float(reference[1])))

    def _vote(self, direction: Direction) -> tuple[Float64s, Float64s]:
        """Return the speeds and offsets of the `PEAKS` lines with the most evidence."""
        rows, columns = np.nonzero(direction.evidence > 0)
        # Seconds since both videos' first frames, so that the vote does not depend on the clocks.
        origin = direction.query_times[0, 0], direction.reference_times[0, 0]
        query_seconds = direction.query_times[-1, 1] - origin[0]
        reference_seconds = direction.reference_times[-1, 1] - origin[1]
        query, reference = direction.query_centers[rows] - origin[0], direction.reference_centers[columns] - origin[1]
        weights = direction.evidence[rows, columns] * direction.query_seconds[rows]
        speeds = np.exp(np.linspace(-1.0, 1.0, self.speeds) * np.log(self.max_speed))
        # Divided by sqrt(speed), offsets are distances across the line, comparable for all speeds.
        widths = np.sqrt(speeds) * direction.step
        lowest = np.rint(-speeds * query_seconds / widths).astype(np.intp) - 1
        bins = int(max(np.rint(reference_seconds / widths) - lowest)) + 2
        votes = np.empty((len(speeds), bins))
        for part in _slices(len(speeds), max(1, VOTES_AT_ONCE // max(1, len(rows)))):
            across = (reference - speeds[part, None] * query) / widths[part, None]
            places = np.rint(across).astype(np.intp) - lowest[part, None]
            places += bins * np.arange(len(places))[:, None]
            count = np.bincount(places.ravel(), np.tile(weights, len(places)), bins * len(places))
            votes[part] = count.reshape(-1, bins)
        votes = ndimage.convolve1d(votes, [0.5, 1.0, 0.5], axis=1, mode="constant")
        speed, place = np.nonzero((votes == ndimage.maximum_filter(votes, 3)) & (votes >= self.min_evidence))
        order = np.argsort(-votes[speed, place], kind="stable")[:PEAKS]
        speed, place = speed[order], place[order]
        return speeds[speed], (place + lowest[speed]) * widths[speed] + origin[1] - speeds[speed] * origin[0]

    def _lines_worth(self, plane: Plane, speeds: Float64s, offsets: Float64s) -> Float64s:
        return plane.cut(speeds, offsets).evidence * (1.0 - self.speed_cost * np.abs(np.log2(speeds)))

    def _refine(
        self, plane: Plane, speed: float, offset: float, step: float, speed_reach: float
    ) -> tuple[float, float]:
        """Return the mean of the lines around a line, weighted by how close each comes to the best of them."""
        limit, shift_reach = np.log(self.max_speed), 2.0 * step
        for _ in range(REFINEMENTS):
            center = sum(plane.cut_one(speed, offset)) / 2
            pivot = speed * center + offset
            grid = np.meshgrid(np.linspace(-speed_reach, speed_reach, 5), np.linspace(-shift_reach, shift_reach, 9))
            logs, shifts = np.clip(np.log(speed) + grid[0].ravel(), -limit, limit), grid[1].ravel()
            speeds = np.exp(logs)
            worth = self._lines_worth(plane, speeds, pivot - speeds * center + shifts * np.sqrt(speeds))
            weights = np.exp((worth - worth.max()) / self.temperature)
            weights /= weights.sum()
            speed = float(np.exp(weights @ logs))
            offset = float(pivot - speed * center + (weights @ shifts) * np.sqrt(speed))
            speed_reach, shift_reach = speed_reach / 2, shift_reach / 2
        return speed, offset


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, start + size)
