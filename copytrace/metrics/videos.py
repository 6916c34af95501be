"""The figures of the Video Similarity Challenge 2022: segment AP, and micro-AP of pairs of videos.

Segment AP follows the challenge's `vsc/metrics.py`. As the threshold falls, each pair of videos gathers predicted
segments, and on each axis (the query's seconds and the reference's) the seconds that they cover are united. A second
is right if a true segment covers it too, one whose box overlaps the box of a prediction of the same pair. Seconds are
summed over all pairs; precision and recall are the geometric means of those of the two axes.

No union is ever built. The edges of all segments of a pair cut each axis into stretches, and a stretch is covered from
the first score step of any prediction over it, and right from the later of that step and the first step at which a
prediction meets one of its true segments. Two histograms over the steps then give the whole curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from copytrace.errors import InputError
from copytrace.metrics.curves import Floats, PrecisionRecallCurve, share
from copytrace.metrics.images import Bools, Ids, Ints, Reals
from copytrace.metrics.intervals import Intervals, cut_axis, first_overlaps

# The descriptor track's budgets, per query: hits of frames, then pairs of videos (vsc2022, descriptor_eval_lib.py).
FRAME_HITS_PER_QUERY = 1200
PAIRS_PER_QUERY = 25


@dataclass(frozen=True, eq=False)
class Segments:
    """Copied stretches, one a row: ids `queries` and `references`, shape (n,), and `times`, shape (n, 4).

    `times` are query start, query end, reference start, reference end in seconds, all finite, no end before its start.
    `scores` (n,) are real, higher is better; a ground truth has none. `source` is what error messages call the table.
    """

    queries: Ids
    references: Ids
    times: Reals
    scores: Reals | None = None
    source: str = field(default="the segments", kw_only=True)

    def __post_init__(self) -> None:
        rows = len(self.queries)
        if np.shape(self.times) != (rows, 4) or len(self.references) != rows:
            shapes = f"{rows} queries, {len(self.references)} references, times of shape {np.shape(self.times)}"
            raise InputError(f"{self.source}: {shapes}; give one of each per row, and four times")
        if self.scores is not None and np.shape(self.scores) != (rows,):
            raise InputError(f"{self.source}: {rows} rows, but scores of shape {np.shape(self.scores)}; give one a row")


@dataclass(frozen=True, eq=False)
class JudgedSegments:
    """Predicted segments held against true ones, with numbers in place of ids; made by `judge_segments`.

    `axes` are the stretches of the query's axis and of the reference's. `scores` float64 (steps,) are the distinct
    scores, falling. `best_steps` int64 and `true_pairs` bool, both (pairs,): the first step that predicts each pair of
    videos (`len(scores)`: never), and whether it is true. `true_queries` int64 (true segments,) are numbers of
    `query_ids`. `predictions` is the number of predicted segments.
    """

    axes: tuple[Intervals, Intervals]
    scores: Floats
    best_steps: Ints
    true_pairs: Bools
    true_queries: Ints
    query_ids: tuple[str, ...]
    predictions: int


@dataclass(frozen=True)
class VideoMetrics:
    """Figures of one set of predicted segments, each 0..1; those at P90 are None if 90 % precision is never reached.

    `recall` is that of all predictions together, whatever their score. `pair_ap` is the micro-AP of pairs of videos,
    each with the score of its best segment. `segments` and `pairs` count the ground truth.
    """

    segment_ap: float
    recall_at_p90: float | None
    threshold_at_p90: float | None
    recall: float
    pair_ap: float
    segments: int
    pairs: int
    predictions: int


@dataclass(frozen=True)
class VideoKindMetrics:
    """Figures of the queries with one kind of edit: of their true segments, and of the predictions for them.

    `segment_ap` and `recall` (of all predictions together), 0..1, are None where these queries have no true segment.
    """

    kind: str
    queries: int
    segments: int
    segment_ap: float | None
    recall: float | None


def judge_segments(truth: Segments, predictions: Segments) -> JudgedSegments:
    """Find when each stretch of time is predicted, and from when on it is right.

    Rows may repeat or overlap, come in any order, be of no length, or lie before 0 s. Raises InputError for a time or
    a score that is not finite, an end before its start, a ground truth whose segments have no length on an axis, and
    predictions without scores.
    """
    truth_times, times = _checked_times(truth), _checked_times(predictions)
    scores, steps = _steps(predictions)
    pairs, count, never = _number_pairs(truth, predictions), len(truth.queries), len(scores)
    met_at = first_overlaps(pairs.true, truth_times, pairs.predicted, times, steps, never)
    axes = tuple(
        cut_axis(
            np.concatenate([pairs.true, pairs.predicted]),
            np.concatenate([truth_times[:, axis : axis + 2], times[:, axis : axis + 2]]),
            np.concatenate([met_at, steps]),
            count,
            never,
            queries_of_pairs=pairs.queries,
        )
        for axis in (0, 2)
    )
    for name, axis in zip(("query", "reference"), axes, strict=True):
        if not axis.seconds[axis.in_truth].sum() > 0:
            cure = "give at least one row that lasts" if count else "give at least one row"
            raise InputError(f"{truth.source} has no true second on the {name}'s axis, so there is no recall; {cure}")
    return JudgedSegments(
        axes=(axes[0], axes[1]),
        scores=scores,
        best_steps=pairs.best_steps(steps, never),
        true_pairs=pairs.are_true,
        true_queries=pairs.queries[pairs.true],
        query_ids=pairs.query_ids,
        predictions=len(steps),
    )


def evaluate_segments(judged: JudgedSegments) -> VideoMetrics:
    """Return the matching track's figures of all predictions."""
    curve = segment_curve(judged)
    point = curve.recall_at_precision()
    return VideoMetrics(
        segment_ap=curve.average_precision,
        recall_at_p90=point.recall if point else None,
        threshold_at_p90=point.threshold if point else None,
        recall=curve.recall,
        pair_ap=pair_curve(judged).average_precision,
        segments=len(judged.true_queries),
        pairs=int(judged.true_pairs.sum()),
        predictions=judged.predictions,
    )


def evaluate_segments_by_kind(judged: JudgedSegments, kinds: Mapping[str, str]) -> tuple[VideoKindMetrics, ...]:
    """Return figures per kind of edit, by name.

    `kinds` are words separated by spaces per query id; a query counts under each of its words once. Queries without
    true segments or predictions count too; those that `kinds` lacks belong to no kind.
    """
    queries_of_kind: dict[str, set[str]] = {}
    for query, words in kinds.items():
        for word in words.split():
            queries_of_kind.setdefault(word, set()).add(query)
    rows = []
    for kind, queries in sorted(queries_of_kind.items()):
        chosen = np.fromiter((query in queries for query in judged.query_ids), np.bool_, len(judged.query_ids))
        segments = int(chosen[judged.true_queries].sum())
        curve = segment_curve(judged, chosen) if segments else None
        ap, recall = (curve.average_precision, curve.recall) if curve else (None, None)
        rows.append(VideoKindMetrics(kind, len(queries), segments, ap, recall))
    return tuple(rows)


def segment_curve(judged: JudgedSegments, queries: Bools | None = None) -> PrecisionRecallCurve:
    """Return the curve whose average precision is the segment AP.

    `queries` bool, one per `judged.query_ids`, restricts both the ground truth and the predictions to some queries; a
    ground truth that has no second left there gives a recall of 0.
    """
    precision, recall = np.ones(len(judged.scores)), np.ones(len(judged.scores))
    for stretches in judged.axes:
        chosen = stretches if queries is None else stretches.of_queries(queries)
        right, predicted, true = chosen.sums(len(judged.scores))
        precision *= share(right, predicted)
        recall *= share(right, np.full_like(right, true))
    return PrecisionRecallCurve(judged.scores, np.sqrt(precision), np.sqrt(recall))


def pair_curve(judged: JudgedSegments) -> PrecisionRecallCurve:
    """Return the curve of pairs of videos, each with the score of its best segment; its area is their micro-AP."""
    return _curve_of_pairs(judged.scores, judged.best_steps, judged.true_pairs)


def descriptor_curve(
    truth: Segments,
    hits: Segments,
    query_count: int,
    *,
    hits_per_query: int = FRAME_HITS_PER_QUERY,
    pairs_per_query: int = PAIRS_PER_QUERY,
) -> PrecisionRecallCurve:
    """Return the descriptor track's curve of an exhaustive search; its average precision is the track's micro-AP.

    `hits` are pairs of frames with their similarity as score (their times do not matter), `query_count` the number of
    query videos searched. The best `hits_per_query * query_count` hits give each pair of videos the score of its best
    one, and the best `pairs_per_query * query_count` pairs are judged. Scores that tie with the last one kept are kept.
    Raises InputError for a score that is not finite, a `query_count` below 1, or a ground truth without a row.
    """
    if query_count < 1:
        raise InputError(f"a search of {query_count} query videos has no budget; give their number, at least 1")
    if not len(truth.queries):
        raise InputError(f"{truth.source} names no pair, so there is no recall; give at least one row")
    scores, steps = _steps(hits)
    never = len(scores)
    pairs = _number_pairs(truth, hits)
    best_steps = pairs.best_steps(_within_budget(steps, hits_per_query * query_count, never), never)
    best_steps = _within_budget(best_steps, pairs_per_query * query_count, never)
    return _curve_of_pairs(scores, best_steps, pairs.are_true)


class _Pairs(NamedTuple):
    """Numbers of the pair of videos of each row, the query of each pair, and the ids of the queries."""

    true: Ints
    predicted: Ints
    queries: Ints
    query_ids: tuple[str, ...]

    @property
    def are_true(self) -> Bools:
        return np.bincount(self.true, minlength=len(self.queries)) > 0

    def best_steps(self, steps: Ints, never: int) -> Ints:
        best = np.full(len(self.queries), never, dtype=np.int64)
        np.minimum.at(best, self.predicted, steps)
        return best


def _number_pairs(truth: Segments, predictions: Segments) -> _Pairs:
    count = len(truth.queries)
    queries, query_ids = _number(truth.queries, predictions.queries)
    references, reference_ids = _number(truth.references, predictions.references)
    pairs, keys = pd.factorize(queries * len(reference_ids) + references)
    return _Pairs(pairs[:count], pairs[count:], keys // max(1, len(reference_ids)), query_ids)


def _number(true: Ids, predicted: Ids) -> tuple[Ints, tuple[str, ...]]:
    ids = np.concatenate([np.asarray(true, dtype=object), np.asarray(predicted, dtype=object)])
    numbers, names = pd.factorize(ids, use_na_sentinel=False)
    return numbers.astype(np.int64), tuple(names)


def _curve_of_pairs(scores: Floats, best_steps: Ints, is_true: Bools) -> PrecisionRecallCurve:
    predicted = np.cumsum(np.bincount(best_steps, minlength=len(scores) + 1)[: len(scores)])
    right = np.cumsum(np.bincount(best_steps[is_true], minlength=len(scores) + 1)[: len(scores)])
    return PrecisionRecallCurve(scores, share(right, predicted), right / max(1, int(is_true.sum())))


def _within_budget(steps: Ints, budget: int, never: int) -> Ints:
    """The steps, lower is better, with `never` in place of those behind the last of the `budget`, ties kept."""
    if budget >= len(steps):
        return steps
    return np.where(steps <= np.partition(steps, budget - 1)[budget - 1], steps, never)


def _steps(predictions: Segments) -> tuple[Floats, Ints]:
    """The distinct scores, falling, and for each row the number of its score among them."""
    if predictions.scores is None:
        raise InputError(f"{predictions.source} has no scores; give each row one, higher for what is more certain")
    scores = np.asarray(predictions.scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(f"{_row(predictions, bad[0])} has the score {scores[bad[0]]}; give every row a finite one")
    distinct, ascending = np.unique(scores, return_inverse=True)
    return distinct[::-1], len(distinct) - 1 - ascending


def _checked_times(segments: Segments) -> Floats:
    times = np.asarray(segments.times, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(times).all(axis=1))
    if bad.size:
        raise InputError(f"{_row(segments, bad[0])} has the times {times[bad[0]].tolist()}; give finite seconds")
    for axis, name in ((0, "query"), (2, "reference")):
        bad = np.flatnonzero(times[:, axis + 1] < times[:, axis])
        if bad.size:
            start, end = times[bad[0], axis : axis + 2]
            cure = "give the earlier time as the start, for copies played backwards too"
            raise InputError(f"{_row(segments, bad[0])}: the {name}'s segment ends at {end} before {start}; {cure}")
    return times


def _row(segments: Segments, row: int) -> str:
    query, reference = str(segments.queries[row]), str(segments.references[row])
    return f"{segments.source}: row {row + 1} (query {query!r}, reference {reference!r})"
