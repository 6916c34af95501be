"""The figures of the Image Similarity Challenge 2021: micro-AP, recall at 90 % precision, recall at rank 1 and 10.

The rules are those of the challenge's `isc/metrics.py`, ties included: among equal scores the false predictions come
first, so a constant score earns little. A NaN score, which that file may rank first, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError

P90 = 0.9  # the challenge's second figure is the recall at this precision

Ids = Sequence[str] | NDArray[Any]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Reals = NDArray[Any]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Which query copies which reference: a row per true pair, and a row per query that copies nothing.

    `queries`, `references` and `kinds` are ids or names of shape (rows,). A reference `""` means no match; a kind
    `""`, or `kinds` None, means that the kind of edit is not known. `source` is what error messages call it.
    """

    queries: Ids
    references: Ids
    kinds: Ids | None = None
    source: str = "the ground truth"

    def __post_init__(self) -> None:
        _same_length(self.source, self.queries, self.references, *([] if self.kinds is None else [self.kinds]))


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scored pairs: ids `queries` and `references`, real `scores` (higher is better), all of shape (n,), any order."""

    queries: Ids
    references: Ids
    scores: Reals
    source: str = "the predictions"

    def __post_init__(self) -> None:
        _same_length(self.source, self.queries, self.references, self.scores)


@dataclass(frozen=True, eq=False)
class JudgedPredictions:
    """Predictions held against a ground truth, with numbers in place of ids; made by `judge`.

    `queries` int64 (n,): number of each prediction's query; numbers from `len(kind_of_query)` up belong to queries
    that the ground truth lacks. `correct` bool (n,). `scores` float64 (n,), finite. `true_queries` int64 (pairs,):
    the query of each true pair. `kind_of_query` int64: index into `kinds` of each query of the ground truth, or -1.
    """

    queries: Ints
    correct: Bools
    scores: Floats
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
        """Rank of each prediction for its query, see `prediction_ranks`: int64 (n,)."""
        return prediction_ranks(self.queries, self.scores)


class OperatingPoint(NamedTuple):
    """The recall (0..1) that is reached by accepting every prediction with a score of at least `threshold`."""

    recall: float
    threshold: float


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of one set of predictions, each 0..1; recall and threshold at P90 are None if 90 % is never reached."""

    micro_ap: float
    recall_at_p90: float | None
    threshold_at_p90: float | None
    rank1: float
    rank10: float
    pairs: int
    predictions: int


@dataclass(frozen=True)
class KindMetrics:
    """Figures of the queries with one kind of edit, each 0..1, or None where they have no true pair.

    `top1`: share of true pairs ranked first for their query. `found`: share of them at or above the threshold of 90 %
    precision, None if there is none. `micro_ap`: over the predictions of these queries only.
    """

    kind: str
    queries: int
    pairs: int
    top1: float | None
    found: float | None
    micro_ap: float | None


def judge(truth: GroundTruth, predictions: Predictions) -> JudgedPredictions:
    """Decide which predictions are true; those of queries that the ground truth lacks are false.

    Raises InputError for a pair that occurs twice in either, a score that is not finite, a query with two kinds, or a
    ground truth without a true pair.
    """
    scores = np.asarray(predictions.scores, dtype=np.float64)
    if (row := _first(~np.isfinite(scores))) is not None:
        raise InputError(f"{_pair(predictions, row)} has the score {scores[row]}; give every pair a finite one")
    query_numbers, reference_numbers = _Numbering(), _Numbering({"": 0})
    truth_queries, truth_references = query_numbers.of(truth.queries), reference_numbers.of(truth.references)
    query_count = len(query_numbers)
    queries, references = query_numbers.of(predictions.queries), reference_numbers.of(predictions.references)
    stride = len(reference_numbers)
    has_match = truth_references > 0
    truth_keys = truth_queries * stride + truth_references
    keys = queries * stride + references
    _require_distinct(truth, truth_keys)
    _require_distinct(predictions, keys)
    if not has_match.any():
        raise InputError(f"{truth.source} names no true pair, so there is no recall; fill in some reference_id")

    kinds, kind_of_query = _kinds_of_queries(truth, truth_queries, query_count)
    correct = np.isin(keys, truth_keys[has_match])
    return JudgedPredictions(queries, correct, scores, truth_queries[has_match], kinds, kind_of_query)


def evaluate(judged: JudgedPredictions) -> ImageMetrics:
    """Return the challenge's figures of all predictions."""
    point = recall_at_precision(judged.correct, judged.scores, judged.pairs)
    return ImageMetrics(
        micro_ap=micro_average_precision(judged.correct, judged.scores, judged.pairs),
        recall_at_p90=point.recall if point else None,
        threshold_at_p90=point.threshold if point else None,
        rank1=rank_recall(judged.ranks, judged.correct, judged.pairs, within=1),
        rank10=rank_recall(judged.ranks, judged.correct, judged.pairs, within=10),
        pairs=judged.pairs,
        predictions=len(judged.scores),
    )


def evaluate_by_kind(judged: JudgedPredictions, threshold: float | None) -> tuple[KindMetrics, ...]:
    """Return figures per kind of edit, by name; empty where the ground truth tells no kinds.

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
        rows.append(KindMetrics(kind, int(queries[number]), count, top1, found, micro_ap))
    return tuple(rows)


def micro_average_precision(correct: Bools, scores: Reals, pairs: int) -> float:
    """Return micro-AP, 0..1: the precision at each true prediction, in order of score, summed and divided by `pairs`.

    `correct` is bool (n,), `scores` real (n,), `pairs` the number of true pairs, found or not. No predictions give 0.
    Raises InputError for a score that is not finite, or fewer `pairs` than correct predictions.
    """
    precisions, _ = _precision_at_each_hit(correct, scores, pairs)
    return float(precisions.sum()) / pairs


def recall_at_precision(correct: Bools, scores: Reals, pairs: int, precision: float = P90) -> OperatingPoint | None:
    """Return the greatest recall at which the precision is at least `precision`, and its score, or None if never.

    Arguments and errors are those of `micro_average_precision`; `precision` is above 0 and at most 1.
    """
    if not 0 < precision <= 1:
        raise InputError(f"a precision of {precision} cannot be required; give one above 0 and at most 1")
    precisions, hits = _precision_at_each_hit(correct, scores, pairs)
    # Between two hits the recall stands still and the precision falls, so only hits can be the operating point.
    reached = np.flatnonzero(precisions >= precision)
    if not reached.size:
        return None
    return OperatingPoint(recall=(int(reached[-1]) + 1) / pairs, threshold=float(hits[reached[-1]]))


def prediction_ranks(queries: Ints, scores: Reals) -> Ints:
    """Return each prediction's rank among those of its query, int64 (n,): 0 is first.

    It is the number of the query's predictions with at least this score, less one: ties share the worst rank.
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

    `ranks` (n,) are from `prediction_ranks`, `correct` is bool (n,). A pair that was not predicted is never found.
    """
    return int(np.sum(ranks[correct] < within)) / pairs


def _precision_at_each_hit(correct: Bools, scores: Reals, pairs: int) -> tuple[Floats, Floats]:
    """Precision at, and score of, each true prediction, best first; the false ones of the same score precede it."""
    correct, scores = np.asarray(correct, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    if (row := _first(~np.isfinite(scores))) is not None:
        raise InputError(f"the score at position {row} is {scores[row]}; give every prediction a finite one")
    hits, misses = np.sort(scores[correct])[::-1], np.sort(scores[~correct])
    if pairs < max(1, len(hits)):
        raise InputError(f"{len(hits)} correct predictions of {pairs} true pairs; count every true pair once")
    misses_before = len(misses) - np.searchsorted(misses, hits, side="left")
    hits_so_far = np.arange(1, len(hits) + 1)
    return hits_so_far / (hits_so_far + misses_before), hits


class _Numbering(dict[str, int]):
    """Numbers ids in the order they are first seen."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number

    def of(self, ids: Ids) -> Ints:
        # A dictionary beats sorting: np.unique takes several times as long on a million strings.
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
        raise InputError(f"{_pair(truth, row)} gives the query a second kind; give all its rows the same one")
    return kinds, kind_of_query


def _same_length(source: str, *columns: Ids) -> None:
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise InputError(f"{source}: columns of different lengths ({lengths}); give one value per row in each")


def _require_distinct(table: GroundTruth | Predictions, keys: Ints) -> None:
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if (row := _first(np.isin(keys, repeated))) is not None:
        raise InputError(f"{_pair(table, row)} occurs more than once; keep one row per pair")


def _first(chosen: Bools) -> int | None:
    return int(np.argmax(chosen)) if chosen.any() else None


def _pair(table: GroundTruth | Predictions, row: int) -> str:
    return f"{table.source}: query {str(table.queries[row])!r}, reference {str(table.references[row])!r}"
