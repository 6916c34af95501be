"""Video matches for the report, and the selection of the best of any number of them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.errors import InputError
from copytrace.panes.names import WHOLE
from copytrace.report.page import Selection, Side
from copytrace.report.similarity_picture import even_values
from copytrace.report.time_axis import TimeAxis

MATRIX_SIDE = 256  # most rows and columns of a matrix on the page


@dataclass(frozen=True, slots=True)
class PaneSegment:
    """A copied segment, and the pane of the query that contains it.

    `boxes` is float32 [Q, 4], x0, y0, x1, y1 in shares of width and height for every row of the pair's matrix, NaN
    where the pane is absent; with None, the page has no outline of it.
    """

    segment: Segment
    pane: str = WHOLE
    boxes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class VideoMatch:
    """A query, a reference, their copied segments and their similarity matrix.

    `score` is 0..1. If the query has several panes, `matrix` has the largest value of them.
    """

    query_id: str
    reference_id: str
    score: float
    segments: Sequence[PaneSegment]
    matrix: SimilarityMatrix


@dataclass(frozen=True, slots=True)
class CondensedMatch:
    """A match with a small matrix, so that many fit in memory; segments best first."""

    query_id: str
    reference_id: str
    score: float
    segments: list[PaneSegment]
    query: TimeAxis
    reference: TimeAxis
    query_starts: NDArray[np.float64]
    values: NDArray[np.uint8]

    def media_id(self, side: Side) -> str:
        """Return the id of the pair's query or reference."""
        return self.query_id if side == "query" else self.reference_id


def select_best(matches: Iterable[VideoMatch], threshold: float | None, max_matches: int) -> Selection:
    """Return the best `max_matches` as `CondensedMatch`, best first, and counts over all; read `matches` once.

    Raises `InputError` if a score is not a finite number.
    """
    counts = {"pairs": 0, "copies": 0}
    copied_queries: set[str] = set()

    def condense_all() -> Iterator[CondensedMatch]:
        for match in matches:
            counts["pairs"] += 1
            if threshold is not None and match.score >= threshold:
                counts["copies"] += 1
                copied_queries.add(match.query_id)
            yield _condense(match)

    best = heapq.nsmallest(
        max_matches, condense_all(), key=lambda pair: (-pair.score, pair.query_id, pair.reference_id)
    )
    return Selection(best, counts["pairs"], counts["copies"], len(copied_queries))


def _condense(match: VideoMatch) -> CondensedMatch:
    if not math.isfinite(match.score):
        raise InputError(
            f"the score of {match.query_id} and {match.reference_id} is not a finite number; align the pair again"
        )
    spans = (match.matrix.query_times, match.matrix.reference_times)
    query, reference = (TimeAxis(float(times[0, 0]), float(times[-1, 1])) for times in spans)
    return CondensedMatch(
        match.query_id,
        match.reference_id,
        match.score,
        sorted(match.segments, key=lambda found: (-found.segment.score, found.segment.box, found.pane)),
        query,
        reference,
        match.matrix.query_times[:, 0],
        even_values(match.matrix, MATRIX_SIDE),
    )
