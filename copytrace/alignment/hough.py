"""Hough voting: every alike pair of frames votes for the lines (speed and offset) that it may lie on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from copytrace.alignment.greedy_aligner import Direction, GreedyAligner, Path
from copytrace.alignment.lines import Array, Plane

PEAKS = 8  # lines of the vote that are cut and compared before the best is taken
VOTES_AT_ONCE = 1_000_000  # bounds the memory of the vote: about 50 bytes each
GROWTHS = 8  # times that a refined line may turn out to reach further and is refined again
REFINEMENTS = 3  # grids around the best line, each half as wide as the one before


@dataclass(frozen=True)
class HoughAligner(GreedyAligner):
    """Finds straight segments: votes for lines, cuts the best ones to their best stretch, and refines the winner.

    `speeds` lines per offset lie evenly (in the logarithm) from `1 / max_speed` to `max_speed`, times forwards or
    backwards; an odd number holds speed 1. A line of speed 2 or 1/2 is worth `speed_cost` (a share) less than one of
    speed 1. Among lines nearly as good as the best the middle is taken: `temperature` is how much evidence is "nearly".
    """

    speeds: int = 25
    max_speed: float = 2.0
    speed_cost: float = 0.2
    temperature: float = 0.1

    def find(self, direction: Direction) -> Path | None:
        """Return the line with the most evidence."""
        speeds, offsets = self._peaks(direction)
        if not len(speeds):
            return None
        plane = Plane(direction.evidence, direction.query_times, direction.reference_times, self.gap())
        worth = self._worth_of(plane, speeds, offsets)
        best = int(np.argmax(worth))
        if worth[best] < self.min_evidence:
            return None
        speed, offset = self._grown(plane, float(speeds[best]), float(offsets[best]), direction.step)
        start, end = plane.cut_one(speed, offset)
        if start >= end:
            return None
        evidence = float(self._worth_of(plane, np.array([speed]), np.array([offset]))[0])
        return Path(start, end, speed, offset, evidence, *plane.cells_under(speed, offset, start, end))

    def _grown(self, plane: Plane, speed: float, offset: float, step: float) -> tuple[float, float]:
        """Refine a line until its stretch grows no more: the speeds voted for are too coarse for long segments."""
        reach = 2.0 * np.log(self.max_speed) / max(1, self.speeds - 1)
        start, end = plane.cut_one(speed, offset)
        for _ in range(GROWTHS):
            speed, offset = self._refined(self._near(plane, speed, offset, step), speed, offset, step, reach)
            before, (start, end) = end - start, plane.cut_one(speed, offset)
            if end - start < 1.3 * before or end - start < 4.0 * step / reach:
                break
            reach = 4.0 * step / (end - start)  # two frames at either end
        return speed, offset

    def _near(self, plane: Plane, speed: float, offset: float, step: float) -> Plane:
        """Return what a line may reach when it is refined: twice its stretch, and some frames more."""
        start, end = plane.cut_one(speed, offset)
        margin = (end - start) / 2 + 8.0 * step
        reference = speed * np.array([start, end]) + offset + np.array([-margin, margin]) * max(1.0, speed)
        return plane.within((start - margin, end + margin), (float(reference[0]), float(reference[1])))

    def _peaks(self, direction: Direction) -> tuple[Array, Array]:
        """Return the speeds and offsets of the lines that most evidence votes for."""
        rows, columns = np.nonzero(direction.evidence > 0)
        # Seconds since both videos' first frames, so that the same frames vote alike wherever the clocks stand.
        origin = direction.query_times[0, 0], direction.reference_times[0, 0]
        query_seconds = direction.query_times[-1, 1] - origin[0]
        reference_seconds = direction.reference_times[-1, 1] - origin[1]
        query, reference = direction.query_centres[rows] - origin[0], direction.reference_centres[columns] - origin[1]
        weights = direction.evidence[rows, columns] * direction.query_seconds[rows]
        speeds = np.exp(np.linspace(-1.0, 1.0, self.speeds) * np.log(self.max_speed))
        # Offsets over sqrt(speed) are distances across the line in frames, alike for all speeds.
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

    def _worth_of(self, plane: Plane, speeds: Array, offsets: Array) -> Array:
        return plane.cut(speeds, offsets).evidence * (1.0 - self.speed_cost * np.abs(np.log2(speeds)))

    def _refined(
        self, plane: Plane, speed: float, offset: float, step: float, speed_reach: float
    ) -> tuple[float, float]:
        """Return the mean of the lines around a line, each weighted by how near it comes to the best of them."""
        limit, shift_reach = np.log(self.max_speed), 2.0 * step
        for _ in range(REFINEMENTS):
            centre = sum(plane.cut_one(speed, offset)) / 2
            pivot = speed * centre + offset
            grid = np.meshgrid(np.linspace(-speed_reach, speed_reach, 5), np.linspace(-shift_reach, shift_reach, 9))
            logs, shifts = np.clip(np.log(speed) + grid[0].ravel(), -limit, limit), grid[1].ravel()
            speeds = np.exp(logs)
            worth = self._worth_of(plane, speeds, pivot - speeds * centre + shifts * np.sqrt(speeds))
            weights = np.exp((worth - worth.max()) / self.temperature)
            weights /= weights.sum()
            speed = float(np.exp(weights @ logs))
            offset = float(pivot - speed * centre + (weights @ shifts) * np.sqrt(speed))
            speed_reach, shift_reach = speed_reach / 2, shift_reach / 2
        return speed, offset


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, start + size)
