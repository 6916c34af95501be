"""Comparison of a query and a reference frame by frame: their similarity matrix, and its segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.aligners import Aligner
from copytrace.alignment.segments import Segment
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.panes.names import WHOLE

Floats = NDArray[np.float32]
Times = NDArray[np.float64]

SMALLEST_RANGE = 0.1  # least difference of cosine between unrelated and equal frames in the normalization


@dataclass(frozen=True, slots=True)
class VideoRows:
    """Descriptors of one video: N rows, one per frame and pane, in any order.

    `times` float64 [N, 2], start and end in seconds; `vectors` float32 [N, D], unit length; `noise` float32 [N], the
    similarity of unrelated frames to each row (0 for references).
    """

    panes: Sequence[str]
    times: Times
    vectors: Floats
    noise: Floats


@dataclass(frozen=True, slots=True)
class PaneMatrix:
    """The similarity matrix of all panes: the largest value of the panes, and the index of that pane, int16 [Q, R]."""

    matrix: SimilarityMatrix
    panes: tuple[str, ...]
    pane: NDArray[np.int16]

    def find_pane(self, segment: Segment) -> str:
        """Return the name of the pane with the most similarity along the segment's line."""
        query, reference = self.matrix.query_times.mean(axis=1), self.matrix.reference_times.mean(axis=1)
        rows = np.flatnonzero((query > segment.query_start) & (query < segment.query_end))
        if not len(rows):
            rows = np.abs(query - (segment.query_start + segment.query_end) / 2).argmin(keepdims=True)
        expected = [segment.reference_at(second) for second in query[rows]]
        columns = np.abs(reference[None] - np.array(expected)[:, None]).argmin(axis=1)
        weights = np.maximum(self.matrix.values[rows, columns], 1e-6)
        return self.panes[int(np.bincount(self.pane[rows, columns], weights).argmax())]


def compare_videos(query: VideoRows, reference: VideoRows, *, weight: float = 1.0) -> PaneMatrix:
    """Compare every moment of a query with every moment of a reference, each in its best pane.

    A value is (cosine − n) / (1 − n), where n is `weight` times the row's noise level: 0 at the similarity of unrelated
    frames, 1 for equal frames. For n above 0.9 (such as black frames, which are all similar), `SMALLEST_RANGE` replaces
    1 − n. Rows with the same start are one moment; rows and columns are sorted by start.
    """
    names = tuple(dict.fromkeys((WHOLE, *query.panes)))
    of_row = np.array([names.index(name) for name in query.panes], np.int16)
    columns = np.argsort(reference.times[:, 0], kind="stable")
    vectors, times = reference.vectors[columns], reference.times[columns]
    _, first_column = np.unique(times[:, 0], return_index=True)
    starts, moment = np.unique(query.times[:, 0], return_inverse=True)
    order = np.lexsort((of_row, moment))
    first = np.searchsorted(moment[order], np.arange(len(starts)))
    rank = np.arange(len(order)) - first[moment[order]]
    best = np.full((len(starts), len(first_column)), -np.inf, np.float32)
    pane = np.zeros(best.shape, np.int16)
    level = (np.float32(weight) * query.noise)[:, None]
    for layer in range(rank.max(initial=-1) + 1):
        rows = order[rank == layer]  # at most one row of each moment
        at = moment[rows]
        values = np.maximum.reduceat(query.vectors[rows] @ vectors.T, first_column, axis=1)
        values = (values - level[rows]) / np.maximum(1 - level[rows], SMALLEST_RANGE)
        better = values > best[at]
        best[at] = np.where(better, values, best[at])
        pane[at] = np.where(better, of_row[rows, None], pane[at])
    return PaneMatrix(SimilarityMatrix(best, query.times[order][first], times[first_column]), names, pane)


def align_pair(
    query: VideoRows, reference: VideoRows, aligner: Aligner, *, weight: float = 1.0
) -> list[tuple[Segment, str]]:
    """Return the segments of a pair, best first, each with the query's pane that shows it."""
    compared = compare_videos(query, reference, weight=weight)
    return [(segment, compared.find_pane(segment)) for segment in aligner.align(compared.matrix)]
