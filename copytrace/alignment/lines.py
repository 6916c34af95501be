"""Straight lines through a similarity matrix: the evidence under them, and the stretch where they are best.

A line is `reference = speed * query + offset` in seconds. A frame's values hold for all of its time, so the evidence
of a line is an exact integral over the cells that it crosses, whatever the frames' lengths. It is measured in seconds
of the query: its frames are what has to be explained, and a faster line earns nothing by covering more reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cuts:
    """The best stretch of each of L lines: query seconds [L], and the evidence [L], 0 where there is none."""

    starts: Array
    ends: Array
    evidence: Array


class Plane:
    """Evidence over the plane of query and reference seconds: constant in each cell, `gap` where there is no frame.

    `evidence` is [Q, R]; `query_times` [Q, 2] and `reference_times` [R, 2] are in seconds, ascending.
    """

    def __init__(self, evidence: Array, query_times: Array, reference_times: Array, gap: float) -> None:
        self._evidence, self._times, self._gap = evidence, (query_times, reference_times), gap
        self._padded = np.full((evidence.shape[0] + 1, evidence.shape[1] + 1), gap)
        self._padded[:-1, :-1] = evidence
        self._edges = np.unique(query_times), np.unique(reference_times)
        self._frames = (
            _frames_between(self._edges[0], query_times),
            _frames_between(self._edges[1], reference_times),
        )

    def cut(self, speeds: Array, offsets: Array) -> Cuts:
        """Cut each of L lines (speeds above 0) to the stretch with the largest sum of evidence."""
        borders = self._borders(speeds, offsets)
        rows, columns = self._cells(borders, speeds, offsets)
        sums = np.zeros_like(borders)
        np.cumsum(self._padded[rows, columns] * np.diff(borders, axis=1), axis=1, out=sums[:, 1:])
        lowest = np.minimum.accumulate(sums, axis=1)
        # The last of equal minima, so that a stretch does not begin with worthless seconds.
        lowest_at = np.maximum.accumulate(np.where(sums <= lowest, np.arange(sums.shape[1]), 0), axis=1)
        line, last = np.arange(len(speeds)), np.argmax(sums - lowest, axis=1)
        first = lowest_at[line, last]
        return Cuts(borders[line, first], borders[line, last], sums[line, last] - sums[line, first])

    def cut_one(self, speed: float, offset: float) -> tuple[float, float]:
        """Return the query seconds of the best stretch of one line."""
        cut = self.cut(np.array([speed]), np.array([offset]))
        return float(cut.starts[0]), float(cut.ends[0])

    def within(self, query: tuple[float, float], reference: tuple[float, float]) -> Plane:
        """Return the part of the plane whose frames touch these stretches of query and reference seconds."""
        rows, columns = (
            slice(*np.searchsorted(times[:, 0], stretch))
            for times, stretch in zip(self._times, (query, reference), strict=True)
        )
        rows, columns = (slice(max(0, part.start - 1), part.stop) for part in (rows, columns))
        return Plane(self._evidence[rows, columns], self._times[0][rows], self._times[1][columns], self._gap)

    def cells_under(self, speed: float, offset: float, start: float, end: float) -> tuple[Indices, Indices]:
        """Return the rows [P] and columns [P] that a line crosses between two query seconds."""
        speeds, offsets = np.array([speed]), np.array([offset])
        borders = self._borders(speeds, offsets)
        rows, columns = self._cells(borders, speeds, offsets)
        centres = (borders[0, 1:] + borders[0, :-1]) / 2
        inside = (np.diff(borders[0]) > 0) & (centres > start) & (centres < end)
        inside &= (rows[0] >= 0) & (columns[0] >= 0)
        return rows[0, inside], columns[0, inside]

    def _borders(self, speeds: Array, offsets: Array) -> Array:
        """Query seconds at which each line enters another cell [L, K]; repeated where it lies outside the plane."""
        query, reference = self._edges
        crossed = (reference[None, :] - offsets[:, None]) / speeds[:, None]
        borders = np.concatenate([np.broadcast_to(query, (len(speeds), len(query))), crossed], axis=1)
        low = np.maximum(query[0], crossed[:, :1])
        high = np.maximum(np.minimum(query[-1], crossed[:, -1:]), low)
        return np.sort(np.clip(borders, low, high), axis=1)

    def _cells(self, borders: Array, speeds: Array, offsets: Array) -> tuple[Indices, Indices]:
        centres = (borders[:, 1:] + borders[:, :-1]) / 2
        seconds = centres, speeds[:, None] * centres + offsets[:, None]
        rows, columns = (
            frames[np.clip(np.searchsorted(edges, at.ravel(), side="right") - 1, 0, len(frames) - 1)]
            for edges, frames, at in zip(self._edges, self._frames, seconds, strict=True)
        )
        return rows.reshape(centres.shape), columns.reshape(centres.shape)


def fit_line(query: Array, reference: Array, weights: Array, prior: float) -> tuple[float, float]:
    """Return the speed and offset of the weighted least-squares line through points [N] in seconds.

    The speed is drawn towards 1, as much as by points that span `prior` seconds: a few frames, or a still shot, say
    nothing about it.
    """
    share = weights / weights.sum()
    at_query, at_reference = float(share @ query), float(share @ reference)
    along = query - at_query
    speed = float((share @ (along * (reference - at_reference)) + prior**2) / (share @ along**2 + prior**2))
    return speed, at_reference - speed * at_query


def _frames_between(edges: Array, times: Array) -> Indices:
    """Return which frame covers each stretch between two edges, the newest of several; -1 (the padding) for none."""
    centres = (edges[1:] + edges[:-1]) / 2
    frames = np.searchsorted(times[:, 0], centres, side="right") - 1
    return np.where(centres < times[frames, 1], frames, -1)
