"""Metrics of the Image Similarity Challenge 2021: micro-AP, recall at 90 % precision, recall at rank 1 and 10.

They follow the challenge's `isc/metrics.py`, ties included: among equal scores, false predictions come first, so a
constant score earns little. NaN scores, which that file may rank first, raise an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.metrics.reliability import calibration_error

P90 = 0.9  # the challenge's second figure is the recall at this precision
SURE = 0.5  # probability from which a pair is called a copy

Ids = Sequence[str] | NDArray[Any]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Float64s = NDArray[np.float64]
Reals = NDArray[Any]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """True pairs of query and reference, one per row, and one row per query that copies nothing.

    `queries`, `references` and `kinds` are ids or names of shape (rows,). A reference `""` means no match; a kind `""`,
    or `kinds` None, means that the kind of edit is not known. `source` names the table in error messages.
    """

    queries: Ids
    references: Ids
    kinds: Ids | None = None
    source: str = "the ground truth"

    def __post_init__(self) -> None:
        _same_length(self.source, self.queries, self.references, *([] if self.kinds is None else [self.kinds]))


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scored pairs in any order: ids `queries` and `references`, `scores` (higher is better), all of shape (n,)."""

    queries: Ids
    references: Ids
    scores: Reals
    source: str = "the predictions"

    def __post_init__(self) -> None:
        _same_length(self.source, self.queries, self.references, self.scores)


@dataclass(frozen=True, eq=False)
class JudgedPredictions:
    """Predictions compared with a ground truth by `judge`; ids are replaced by numbers.

    `queries` int64 (n,): the number of each prediction's query; numbers from `len(kind_of_query)` up belong to queries
    that the ground truth lacks. `correct` bool (n,). `scores` float64 (n,), finite. `true_queries` int64 (pairs,): the
    query of each true pair. `kind_of_query` int64: index into `kinds` for each query of the ground truth, or -1.
    """

    queries: Ints
    correct: Bools
    scores: Float64s
    true_queries: Ints
    kinds: tuple[str, ...]
    kind_of_query: Ints

    @property
    def pairs(self) -> int:
        """Number of true pairs, found or not."""
        return len(self.true_queries)

    @property
    def known(self) -> Bools:
        """Whether the ground truth has the query of each prediction: bool (n,)."""
        return self.queries < len(self.kind_of_query)

    @cached_property
    def ranks(self) -> Ints:
        """Rank of each prediction for its query, int64 (n,); see `prediction_ranks`."""
        return prediction_ranks(self.queries, self.scores)


class OperatingPoint(NamedTuple):
    """Recall (0..1) of the predictions with a score of at least `threshold`."""

    recall: float
    threshold: float


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of one set of predictions, each 0..1; those at P90 are None if 90 % precision is never reached.

    `calibration_error` is that of the predicted pairs, None if there are none or their scores are no probabilities.
    """

    micro_ap: float
    recall_at_p90: float | None
    threshold_at_p90: float | None
    rank1: float
    rank10: float
    calibration_error: float | None
    pairs: int
    predictions: int


@dataclass(frozen=True)
class KindMetrics:
    """Figures of the queries with one kind of edit, each 0..1, or None if they have no true pair.

    `top1` is the share of true pairs ranked first for their query. `found` is the share of true pairs at or above the
    threshold of 90 % precision, None if there is none. `micro_ap` is over the predictions of these queries only.
    `sure` and `mistaken` are the numbers of true and of false predictions with a score of at least `SURE`.
    `calibration_error` (0..1) is how far the scores are from the share of true predictions, None without predictions or
    if the scores are no probabilities.
    """

    kind: str
    queries: int
    pairs: int
    top1: float | None
    found: float | None
    micro_ap: float | None
    sure: int
    mistaken: int
    calibration_error: float | None


def judge(truth: GroundTruth, predictions: Predictions) -> JudgedPredictions:
    """Return which predictions are true; those for queries that the ground truth lacks are false.

    Raises `InputError` if a pair occurs twice in either table, a score is not finite, a query has two kinds, or the
    ground truth has no true pair.
    """
    scores = np.asarray(predictions.scores, dtype=np.float64)
    if (row := _first(~np.isfinite(scores))) is not None:
        raise InputError(f"{_format_pair(predictions, row)} has the score {scores[row]}; make it finite")
    query_numbers, reference_numbers = _Numbering(), _Numbering({"": 0})
    truth_queries, truth_references = query_numbers.number(truth.queries), reference_numbers.number(truth.references)
    query_count = len(query_numbers)
    queries, references = query_numbers.number(predictions.queries), reference_numbers.number(predictions.references)
    stride = len(reference_numbers)
    has_match = truth_references > 0
    truth_keys = truth_queries * stride + truth_references
    keys = queries * stride + references
    _require_distinct(truth, truth_keys)
    _require_distinct(predictions, keys)
    if not has_match.any():
        raise InputError(f"{truth.source} has no true pair, so recall is undefined; add a row with a reference_id")

    kinds, kind_of_query = _kinds_of_queries(truth, truth_queries, query_count)
    correct = np.isin(keys, truth_keys[has_match])
    return JudgedPredictions(queries, correct, scores, truth_queries[has_match], kinds, kind_of_query)


def evaluate(judged: JudgedPredictions) -> ImageMetrics:
    """Return the challenge's metrics over all predictions."""
    point = recall_at_precision(judged.correct, judged.scores, judged.pairs)
    return ImageMetrics(
        micro_ap=micro_average_precision(judged.correct, judged.scores, judged.pairs),
        recall_at_p90=point.recall if point else None,
        threshold_at_p90=point.threshold if point else None,
        rank1=rank_recall(judged.ranks, judged.correct, judged.pairs, within=1),
        rank10=rank_recall(judged.ranks, judged.correct, judged.pairs, within=10),
        calibration_error=calibration_error(judged.scores, judged.correct),
        pairs=judged.pairs,
        predictions=len(judged.scores),
    )


def evaluate_by_kind(judged: JudgedPredictions, threshold: float | None) -> tuple[KindMetrics, ...]:
    """Return the figures of each kind of edit, sorted by name; none if the ground truth gives no kinds.

    `threshold` is the score at which a pair counts as found: `ImageMetrics.threshold_at_p90`.
    """
    kind_of_prediction = np.append(judged.kind_of_query, -1)[np.minimum(judged.queries, len(judged.kind_of_query))]
    by_kind = np.argsort(kind_of_prediction, kind="stable")
    starts = np.searchsorted(kind_of_prediction[by_kind], np.arange(len(judged.kinds) + 1))
    queries = np.bincount(judged.kind_of_query + 1, minlength=len(judged.kinds) + 1)[1:]
    pairs = np.bincount(judged.kind_of_query[judged.true_queries] + 1, minlength=len(judged.kinds) + 1)[1:]

    rows = []
    for number, kind in enumerate(judged.kinds):
        chosen = by_kind[starts[number] : starts[number + 1]]
        correct, scores = judged.correct[chosen], judged.scores[chosen]
        count = int(pairs[number])
        top1 = found = micro_ap = None
        if count:
            top1 = rank_recall(judged.ranks[chosen], correct, count, within=1)
            found = None if threshold is None else int(np.sum(correct & (scores >= threshold))) / count
            micro_ap = micro_average_precision(correct, scores, count)
        sure, mistaken = (int(np.sum((scores >= SURE) & which)) for which in (correct, ~correct))
        error = calibration_error(judged.scores, judged.correct, chosen)
        rows.append(KindMetrics(kind, int(queries[number]), count, top1, found, micro_ap, sure, mistaken, error))
    return tuple(rows)


def micro_average_precision(correct: Bools, scores: Reals, pairs: int) -> float:
    """Return micro-AP, 0..1: the sum of the precisions at each true prediction, in order of score, over `pairs`.

    `correct` is bool (n,), `scores` are real (n,), `pairs` is the number of true pairs, found or not. The result is 0
    without predictions. Raises `InputError` if a score is not finite, or if there are fewer `pairs` than correct
    predictions.
    """
    precisions, _ = _precision_at_each_hit(correct, scores, pairs)
    return float(precisions.sum()) / pairs


def recall_at_precision(correct: Bools, scores: Reals, pairs: int, precision: float = P90) -> OperatingPoint | None:
    """Return the greatest recall with a precision of at least `precision`, and its score; None if there is none.

    Arguments and errors are as in `micro_average_precision`; `precision` is above 0 and at most 1.
    """
    if not 0 < precision <= 1:
        raise InputError(f"a precision of {precision} cannot be required; give one above 0 and at most 1")
    precisions, hits = _precision_at_each_hit(correct, scores, pairs)
    # Between two hits the recall is constant and the precision falls, so only a hit can be the operating point.
    reached = np.flatnonzero(precisions >= precision)
    if not reached.size:
        return None
    return OperatingPoint(recall=(int(reached[-1]) + 1) / pairs, threshold=float(hits[reached[-1]]))


def prediction_ranks(queries: Ints, scores: Reals) -> Ints:
    """Return each prediction's rank among those of its query, int64 (n,), from 0.

    The rank is the number of the query's predictions with at least this score, minus one: ties share the worst rank.
    `queries` (n,) are numbers from 0, `scores` (n,) real and finite.
    """
    order = np.lexsort((scores, queries))
    by_query, by_score = queries[order], scores[order]
    opens_tie = np.diff(by_query, prepend=-1) != 0
    opens_tie[1:] |= by_score[1:] != by_score[:-1]
    tie_start = np.maximum.accumulate(np.where(opens_tie, np.arange(len(order)), 0))
    end_of_query = np.cumsum(np.bincount(queries))[by_query]
    ranks = np.empty_like(order)
    ranks[order] = end_of_query - tie_start - 1
    return ranks


def rank_recall(ranks: Ints, correct: Bools, pairs: int, *, within: int) -> float:
    """Return the share of the true `pairs`, 0..1, that are among the first `within` predictions of their query.

    `ranks` (n,) are from `prediction_ranks`, `correct` is bool (n,). A pair that was not predicted counts as missed.
    """
    return int(np.sum(ranks[correct] < within)) / pairs


def _precision_at_each_hit(correct: Bools, scores: Reals, pairs: int) -> tuple[Float64s, Float64s]:
    """Return the precision at each true prediction and its score, best first; false ones of equal score come before."""
    correct, scores = np.asarray(correct, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    if (row := _first(~np.isfinite(scores))) is not None:
        raise InputError(f"the score at position {row} is {scores[row]}; give every prediction a finite score")
    hits, misses = np.sort(scores[correct])[::-1], np.sort(scores[~correct])
    if pairs < max(1, len(hits)):
        raise InputError(f"{len(hits)} correct predictions of {pairs} true pairs; predict every true pair at most once")
    misses_before = len(misses) - np.searchsorted(misses, hits, side="left")
    hits_so_far = np.arange(1, len(hits) + 1)
    return hits_so_far / (hits_so_far + misses_before), hits


class _Numbering(dict[str, int]):
    """Numbers of ids, in the order in which they first occur."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number

    def number(self, ids: Ids) -> Ints:
        # A dictionary is several times as fast as np.unique on a million strings.
        names = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return np.fromiter(map(self.__getitem__, names), dtype=np.int64, count=len(names))


def _kinds_of_queries(truth: GroundTruth, row_queries: Ints, query_count: int) -> tuple[tuple[str, ...], Ints]:
    kind_of_query = np.full(query_count, -1, dtype=np.int64)
    if truth.kinds is None:
        return (), kind_of_query
    kinds = tuple(sorted(set(truth.kinds) - {""}))
    numbers = {"": -1, **{kind: number for number, kind in enumerate(kinds)}}
    row_kinds = np.array([numbers[kind] for kind in truth.kinds], dtype=np.int64)
    kind_of_query[row_queries] = row_kinds
    if (row := _first(kind_of_query[row_queries] != row_kinds)) is not None:
        raise InputError(f"{_format_pair(truth, row)} gives the query a second kind; give all its rows the same kind")
    return kinds, kind_of_query


def _same_length(source: str, *columns: Ids) -> None:
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise InputError(f"{source}: columns of different lengths ({lengths}); give each column one value per row")


def _require_distinct(table: GroundTruth | Predictions, keys: Ints) -> None:
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if (row := _first(np.isin(keys, repeated))) is not None:
        raise InputError(f"{_format_pair(table, row)} occurs more than once; keep one row per pair")


def _first(chosen: Bools) -> int | None:
    return int(np.argmax(chosen)) if chosen.any() else None


def _format_pair(table: GroundTruth | Predictions, row: int) -> str:
    return f"{table.source}: query {str(table.queries[row])!r}, reference {str(table.references[row])!r}"
