"""Metrics of the Video Similarity Challenge 2022: segment AP, and micro-AP of pairs of videos.

Segment AP follows the challenge's `vsc/metrics.py`. At a score threshold, each pair of videos has some predicted
segments. On each axis (the query's seconds and the reference's), their union is the set of predicted seconds. A
predicted second is right if a true segment covers it too, and the box of that segment overlaps the box of a prediction
of the same pair. Seconds are summed over all pairs; precision and recall are the geometric means of those of the two
axes.

The unions are never built. The edges of all segments of a pair cut each axis into intervals. An interval is predicted
from the first score step of any prediction over it. It is right from the later of that step and the first step at which
a prediction overlaps one of the true segments over the interval. Two histograms over the steps give the whole curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from copytrace.errors import InputError
from copytrace.metrics.curves import PrecisionRecallCurve, share
from copytrace.metrics.images import SURE, Bools, Float64s, Ids, Ints, Reals
from copytrace.metrics.intervals import Intervals, cut_axis, first_overlaps
from copytrace.metrics.reliability import calibration_error


@dataclass(frozen=True, eq=False)
class Segments:
    """Copied segments, one per row: ids `queries` and `references` of shape (n,), and `times` of shape (n, 4).

    `times` are query start, query end, reference start and reference end in finite seconds; no end is before its start.
    `scores` (n,) are real, higher is better; a ground truth has none. `source` names the table in error messages.
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
            raise InputError(f"{self.source}: {shapes}; give each row one query, one reference and four times")
        if self.scores is not None and np.shape(self.scores) != (rows,):
            raise InputError(
                f"{self.source}: {rows} rows, but scores of shape {np.shape(self.scores)}; give one per row"
            )


@dataclass(frozen=True, eq=False)
class JudgedSegments:
    """Predicted segments compared with true ones by `judge_segments`; ids are replaced by numbers.

    `axes` are the intervals of the query's axis and of the reference's. `scores` float64 (steps,) are the distinct
    scores, descending. `best_steps` int64 and `true_pairs` bool, both (pairs,), are the first step that predicts each
    pair of videos (`len(scores)`: never), and whether the pair is true. `pair_queries` int64 (pairs,) and
    `true_queries` int64 (true segments,) index `query_ids`. `predictions` is the number of predicted segments.
    """

    axes: tuple[Intervals, Intervals]
    scores: Float64s
    best_steps: Ints
    true_pairs: Bools
    pair_queries: Ints
    true_queries: Ints
    query_ids: tuple[str, ...]
    predictions: int


@dataclass(frozen=True)
class VideoMetrics:
    """Figures of one set of predicted segments, each 0..1; those at P90 are None if 90 % precision is never reached.

    `recall` is that of all predictions, whatever their score. `pair_ap` is the micro-AP of pairs of videos,
    each with the score of its best segment, and `calibration_error` how far these scores are from the share of true
    pairs, None if they are no probabilities. `segments` and `pairs` count the ground truth.
    """

    segment_ap: float
    recall_at_p90: float | None
    threshold_at_p90: float | None
    recall: float
    pair_ap: float
    calibration_error: float | None
    segments: int
    pairs: int
    predictions: int


@dataclass(frozen=True)
class VideoKindMetrics:
    """Figures of the queries with one kind of edit: of their true segments and the predictions for them.

    `segment_ap` and `recall` (of all predictions), 0..1, are None if these queries have no true segment. `sure` and
    `mistaken` are the numbers of true and of wrong pairs of videos that have a segment of the score `SURE` or more.
    `calibration_error` (0..1) is how far the scores of pairs, those of their best segments, are from the share of true
    pairs; None without predictions or if the scores are no probabilities.
    """

    kind: str
    queries: int
    segments: int
    segment_ap: float | None
    recall: float | None
    sure: int
    mistaken: int
    calibration_error: float | None


def judge_segments(truth: Segments, predictions: Segments) -> JudgedSegments:
    """Return from which score step each interval of time is predicted, and from which it is right.

    Rows may repeat or overlap, be in any order, have no length, or lie before 0 s. Raises `InputError` if a time or a
    score is not finite, an end is before its start, the ground truth's segments have no length on an axis, or the
    predictions have no scores.
    """
    truth_times, times = _require_times(truth), _require_times(predictions)
    scores, steps = _score_steps(predictions)
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
            cure = "give at least one row with a length" if count else "give at least one row"
            raise InputError(f"{truth.source} has no true second on the {name}'s axis, so recall is undefined; {cure}")
    return JudgedSegments(
        axes=(axes[0], axes[1]),
        scores=scores,
        best_steps=pairs.best_steps(steps, never),
        true_pairs=pairs.are_true,
        pair_queries=pairs.queries,
        true_queries=pairs.queries[pairs.true],
        query_ids=pairs.query_ids,
        predictions=len(steps),
    )


def evaluate_segments(judged: JudgedSegments) -> VideoMetrics:
    """Return the matching track's metrics over all predictions."""
    curve = segment_curve(judged)
    point = curve.recall_at_precision()
    return VideoMetrics(
        segment_ap=curve.average_precision,
        recall_at_p90=point.recall if point else None,
        threshold_at_p90=point.threshold if point else None,
        recall=curve.recall,
        pair_ap=pair_curve(judged).average_precision,
        calibration_error=calibration_error(*_predicted_pairs(judged)),
        segments=len(judged.true_queries),
        pairs=int(judged.true_pairs.sum()),
        predictions=judged.predictions,
    )


def evaluate_segments_by_kind(judged: JudgedSegments, kinds: Mapping[str, str]) -> tuple[VideoKindMetrics, ...]:
    """Return the figures of each kind of edit, sorted by name.

    `kinds` gives for each query id its kinds, separated by spaces; a query counts once under each. Queries without true
    segments or predictions count too; queries that `kinds` lacks have no kind.
    """
    queries_of_kind: dict[str, set[str]] = {}
    for query, words in kinds.items():
        for word in words.split():
            queries_of_kind.setdefault(word, set()).add(query)
    rows = []
    sure = judged.best_steps < int(np.sum(judged.scores >= SURE))
    pair_scores, are_true = _predicted_pairs(judged)
    query_of_pair = judged.pair_queries[judged.best_steps < len(judged.scores)]
    for kind, queries in sorted(queries_of_kind.items()):
        chosen = np.fromiter((query in queries for query in judged.query_ids), np.bool_, len(judged.query_ids))
        segments = int(chosen[judged.true_queries].sum())
        curve = segment_curve(judged, chosen) if segments else None
        ap, recall = (curve.average_precision, curve.recall) if curve else (None, None)
        of_kind = chosen[judged.pair_queries]
        found, wrong = (int((sure & of_kind & which).sum()) for which in (judged.true_pairs, ~judged.true_pairs))
        error = calibration_error(pair_scores, are_true, chosen[query_of_pair])
        rows.append(VideoKindMetrics(kind, len(queries), segments, ap, recall, found, wrong, error))
    return tuple(rows)


def segment_curve(judged: JudgedSegments, queries: Bools | None = None) -> PrecisionRecallCurve:
    """Return the curve whose average precision is the segment AP.

    `queries` bool, one value per `judged.query_ids`, restricts ground truth and predictions to some queries; the recall
    is 0 if the ground truth has no seconds there.
    """
    precision, recall = np.ones(len(judged.scores)), np.ones(len(judged.scores))
    for intervals in judged.axes:
        chosen = intervals if queries is None else intervals.select_queries(queries)
        right, predicted, true = chosen.sums(len(judged.scores))
        precision *= share(right, predicted)
        recall *= share(right, np.full_like(right, true))
    return PrecisionRecallCurve(judged.scores, np.sqrt(precision), np.sqrt(recall))


def pair_curve(judged: JudgedSegments) -> PrecisionRecallCurve:
    """Return the curve of pairs of videos, each with the score of its best segment; its area is their micro-AP."""
    return _build_pair_curve(judged.scores, judged.best_steps, judged.true_pairs)


def _predicted_pairs(judged: JudgedSegments) -> tuple[Float64s, Bools]:
    """Return the score of each predicted pair, that of its best segment, and whether the pair is true."""
    predicted = judged.best_steps < len(judged.scores)
    return judged.scores[judged.best_steps[predicted]], judged.true_pairs[predicted]


class _Pairs(NamedTuple):
    """The pair number of each row, the query number of each pair, and the ids of the queries."""

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
    queries, query_ids = _number_ids(truth.queries, predictions.queries)
    references, reference_ids = _number_ids(truth.references, predictions.references)
    pairs, keys = pd.factorize(queries * len(reference_ids) + references)
    return _Pairs(pairs[:count], pairs[count:], keys // max(1, len(reference_ids)), query_ids)


def _number_ids(true: Ids, predicted: Ids) -> tuple[Ints, tuple[str, ...]]:
    ids = np.concatenate([np.asarray(true, dtype=object), np.asarray(predicted, dtype=object)])
    numbers, names = pd.factorize(ids, use_na_sentinel=False)
    return numbers.astype(np.int64), tuple(names)


def _build_pair_curve(scores: Float64s, best_steps: Ints, is_true: Bools) -> PrecisionRecallCurve:
    predicted = np.cumsum(np.bincount(best_steps, minlength=len(scores) + 1)[: len(scores)])
    right = np.cumsum(np.bincount(best_steps[is_true], minlength=len(scores) + 1)[: len(scores)])
    return PrecisionRecallCurve(scores, share(right, predicted), right / max(1, int(is_true.sum())))


def _score_steps(predictions: Segments) -> tuple[Float64s, Ints]:
    """Return the distinct scores, descending, and for each row the index of its score among them."""
    if predictions.scores is None:
        raise InputError(f"{predictions.source} has no scores; give each row a score, higher for more certain segments")
    scores = np.asarray(predictions.scores, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(f"{_format_row(predictions, bad[0])} has the score {scores[bad[0]]}; make it finite")
    distinct, ascending = np.unique(scores, return_inverse=True)
    return distinct[::-1], len(distinct) - 1 - ascending


def _require_times(segments: Segments) -> Float64s:
    times = np.asarray(segments.times, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(times).all(axis=1))
    if bad.size:
        raise InputError(f"{_format_row(segments, bad[0])} has the times {times[bad[0]].tolist()}; give finite seconds")
    for axis, name in ((0, "query"), (2, "reference")):
        bad = np.flatnonzero(times[:, axis + 1] < times[:, axis])
        if bad.size:
            start, end = times[bad[0], axis : axis + 2]
            cure = "give the earlier time as the start, for copies played backwards too"
            raise InputError(
                f"{_format_row(segments, bad[0])}: the {name}'s segment ends at {end} before {start}; {cure}"
            )
    return times


def _format_row(segments: Segments, row: int) -> str:
    query, reference = str(segments.queries[row]), str(segments.references[row])
    return f"{segments.source}: row {row + 1} (query {query!r}, reference {reference!r})"
