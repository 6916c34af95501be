"""Hough voting: every pair of similar frames votes for the lines (speed and offset) that it may lie on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from copytrace.alignment.greedy_aligner import Direction, GreedyAligner, Path
from copytrace.alignment.lines import Float64s, Plane

PEAKS = 8  # lines with the most votes that are cut and compared
VOTES_AT_ONCE = 1_000_000  # bounds the memory of the vote; a vote takes about 50 bytes
GROWTHS = 8  # most times that a line is refined again because it became longer
REFINEMENTS = 3  # grids around the best line, each half as wide as the one before


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
