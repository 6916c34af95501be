"""Straight lines through a similarity matrix: the evidence along them, and the interval with the most evidence.

A line is `reference = speed * query + offset` in seconds. The value of a cell holds for the whole time of its frames,
so the evidence of a line is an exact integral over the cells that it crosses, whatever the lengths of frames. It is
measured in seconds of the query, so a faster line gains nothing by covering more of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Indices = NDArray[np.intp]


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
