"""Video matches for the report: the best pairs of a run or of any others, with their similarity matrices."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.videos import AlignmentSettings
from copytrace.alignment.align import SEGMENT_SCHEMA, Pair, compare_videos, read_pairs
from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.arrays import Floats, Times
from copytrace.checked_files import read_checked
from copytrace.errors import InputError
from copytrace.index.video_index import VideoIndex
from copytrace.panes.names import WHOLE
from copytrace.report.page import Selection, Side
from copytrace.report.similarity_picture import even_values
from copytrace.report.time_axis import TimeAxis
from copytrace.run_folder import VideoRunFolder

MATRIX_SIDE = 256  # most rows and columns of a matrix on the page
MIN_SCORE_SHOWN = 0.01  # least score of a pair's second and further segments; the tables have all segments

Box = tuple[float, float, float, float]
Boxes = dict[tuple[str, str], dict[float, Box]]  # by video and pane, then by second


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


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Pairs with their segments, best first; each segment has the pane that shows it."""

    segments: dict[Pair, list[tuple[Segment, str]]]

    @classmethod
    def best(cls, folder: VideoRunFolder, limit: int) -> MatchedPairs:
        """Return the `limit` pairs whose best segment scores highest."""
        chosen: dict[Pair, list[tuple[Segment, str]]] = {}
        for row in read_checked(folder.segments, folder.merged, schema=SEGMENT_SCHEMA).to_pylist():  # the best first
            pair = (row["query_id"], row["ref_id"])
            if row["score"] >= MIN_SCORE_SHOWN if pair in chosen else len(chosen) < limit:
                box = (row["query_start"], row["query_end"], row["ref_start"], row["ref_end"])
                chosen.setdefault(pair, []).append((Segment(*box, row["score"], row["reversed"]), row["pane"]))
        return cls(chosen)

    def read(
        self, queries: VideoIndex, references: Path, folder: VideoRunFolder, rules: AlignmentSettings
    ) -> Iterator[VideoMatch]:
        """Yield the pairs as matches with their matrices, shard by shard of the queries."""
        shards = {pair: queries.shard_of(pair[0]) for pair in self.segments}
        ordered = sorted(self.segments, key=lambda pair: shards[pair])
        for shard, group in groupby(ordered, key=lambda pair: shards[pair]):
            boxes = _read_boxes(queries, shard)
            for batch in read_pairs(list(group), shard, queries.root, references, folder.noise(shard)):
                for pair, query, reference in batch:
                    matrix = compare_videos(query, reference, weight=rules.noise_weight, panes=rules.panes).matrix
                    found = [
                        PaneSegment(segment, pane, _boxes_at(matrix.query_times, boxes.get((pair[0], pane), {})))
                        for segment, pane in self.segments[pair]
                    ]
                    yield VideoMatch(*pair, found[0].segment.score, found, matrix)


def _read_boxes(queries: VideoIndex, shard: int) -> Boxes:
    boxes: Boxes = {}
    for row in queries.pane_boxes(shard).to_pylist():
        by_second = boxes.setdefault((row["id"], row["pane"]), {})
        by_second[row["start"]] = (row["x0"], row["y0"], row["x1"], row["y1"])
    return boxes


def _boxes_at(times: Times, boxes: dict[float, Box]) -> Floats:
    absent = (np.nan,) * 4
    return np.array([boxes.get(start, absent) for start in times[:, 0]], np.float32)
