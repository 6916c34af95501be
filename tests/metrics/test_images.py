"""The image figures against worked cases, a literal restatement of the official rules, and what must not matter."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copytrace.errors import InputError
from copytrace.metrics.images import (
    GroundTruth,
    ImageMetrics,
    KindMetrics,
    Predictions,
    evaluate,
    evaluate_by_kind,
    judge,
    micro_average_precision,
    prediction_ranks,
    rank_recall,
    recall_at_precision,
)

Pair = tuple[str, str]
Row = tuple[str, str, float]

unhurried = settings(deadline=None)  # a busy machine is no failure


def ground_truth_of(pairs: list[Pair]) -> GroundTruth:
    return GroundTruth([query for query, _ in pairs], [reference for _, reference in pairs])


def predictions_of(rows: list[Row]) -> Predictions:
    return Predictions([row[0] for row in rows], [row[1] for row in rows], np.array([row[2] for row in rows], float))


def metrics_of(pairs: list[Pair], rows: list[Row]) -> ImageMetrics:
    return evaluate(judge(ground_truth_of(pairs), predictions_of(rows)))


def restated_metrics(pairs: list[Pair], rows: list[Row]) -> ImageMetrics:
    """The rules of the challenge's `isc/metrics.py`, one after the other, in plain Python."""
    ordered = sorted(((score, (query, reference) not in pairs) for query, reference, score in rows), reverse=True)
    micro_ap, previous, hits = 0.0, 0.0, 0
    recall_at_p90 = threshold = None
    for count, (score, is_false) in enumerate(ordered, start=1):
        hits += not is_false
        recall, precision = hits / len(pairs), hits / count
        micro_ap += (recall - previous) * precision
        previous = recall
        if precision >= 0.9 and (recall_at_p90 is None or recall > recall_at_p90):
            recall_at_p90, threshold = recall, score
    ranks = []
    for pair in pairs:
        own_scores = [score for query, reference, score in rows if (query, reference) == pair]
        rivals = [score for query, _, score in rows if query == pair[0]]
        ranks.append(sum(score >= own_scores[0] for score in rivals) - 1 if own_scores else 2**35)
    rank1, rank10 = (sum(rank < within for rank in ranks) / len(pairs) for within in (1, 10))
    return ImageMetrics(micro_ap, recall_at_p90, threshold, rank1, rank10, None, len(pairs), len(rows))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Pair], list[Row]]:
    """Predictions with few distinct scores, hence many ties; some of them true, and some true pairs not predicted."""
    query, reference = st.integers(0, 3).map("Q{}".format), st.integers(0, 15).map("R{}".format)
    row = st.tuples(query, reference, st.integers(-3, 8).map(float))
    rows = draw(st.lists(row, max_size=40, unique_by=lambda row: row[:2]))
    is_true = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    found = [row[:2] for row, true in zip(rows, is_true, strict=True) if true]
    missed = draw(st.lists(st.tuples(query, st.integers(16, 19).map("R{}".format)), max_size=6, unique=True))
    return [*found, *missed] or [("Q0", "R99")], rows


@given(cases())
@settings(unhurried, max_examples=300)
def test_every_figure_agrees_with_a_literal_restatement_of_the_official_rules(case):
    ours, restated = metrics_of(*case), restated_metrics(*case)
    assert ours.micro_ap == pytest.approx(restated.micro_ap, abs=1e-12)
    unofficial = {"micro_ap": 0.0, "calibration_error": None}
    assert dataclasses.replace(ours, **unofficial) == dataclasses.replace(restated, **unofficial)


@given(cases())
@unhurried
def test_every_figure_lies_between_0_and_1(case):
    metrics = metrics_of(*case)
    figures = (metrics.micro_ap, metrics.recall_at_p90 or 0.0, metrics.rank1, metrics.rank10)
    assert all(0.0 <= figure <= 1.0 for figure in figures)


@given(cases(), st.randoms(use_true_random=False))
@unhurried
def test_the_order_of_the_rows_does_not_matter(case, random):
    pairs, rows = case
    shuffled = random.sample(rows, len(rows))
    assert metrics_of(pairs, shuffled) == metrics_of(pairs, rows)


@given(cases())
@unhurried
def test_a_monotone_change_of_the_scores_changes_only_the_threshold_and_what_they_mean_as_probabilities(case):
    pairs, rows = case
    before = metrics_of(pairs, rows)
    after = metrics_of(pairs, [(query, reference, math.exp(score)) for query, reference, score in rows])
    expected = None if before.threshold_at_p90 is None else math.exp(before.threshold_at_p90)
    changed = {"threshold_at_p90": expected, "calibration_error": after.calibration_error}
    assert after == dataclasses.replace(before, **changed)


@given(cases())
@unhurried
def test_accepting_every_score_from_the_threshold_up_gives_the_recall_and_the_precision(case):
    pairs, rows = case
    metrics = metrics_of(pairs, rows)
    if metrics.threshold_at_p90 is not None:
        accepted = [
            (query, reference) in pairs for query, reference, score in rows if score >= metrics.threshold_at_p90
        ]
        assert sum(accepted) / len(accepted) >= 0.9
        assert sum(accepted) / len(pairs) == metrics.recall_at_p90


@pytest.mark.parametrize(
    ("correct", "scores", "pairs", "expected"),
    [
        pytest.param([1, 0, 1, 0], [5, 5, 5, 5], 2, 0.416667, id="two true and two false tied"),
        pytest.param([1, 1], [2, 1], 2, 1.0, id="perfect"),
        pytest.param([1], [1], 2, 0.5, id="one of two missing"),
        pytest.param([0, 1, 1], [3, 2, 1], 2, 0.583333, id="a false one first"),
        pytest.param([], [], 2, 0.0, id="no predictions"),
    ],
)
def test_micro_average_precision_of_worked_cases(correct, scores, pairs, expected):
    value = micro_average_precision(np.array(correct, bool), np.array(scores, float), pairs)
    assert value == pytest.approx(expected, abs=5e-7)


def test_recall_at_precision_is_none_when_true_and_false_predictions_tie():
    assert recall_at_precision(np.array([True, False, True, False]), np.full(4, 5.0), 2) is None


def test_recall_at_precision_accepts_a_precision_of_exactly_nine_in_ten():
    correct = np.array([True] * 8 + [False] + [True])
    assert recall_at_precision(correct, np.arange(10, 0, -1), 12) == (9 / 12, 1.0)


def test_recall_at_precision_may_recover_after_false_predictions_at_the_top():
    correct = np.array([False] + [True] * 9)
    assert recall_at_precision(correct, np.arange(10, 0, -1), 9) == (1.0, 1.0)


def test_recall_at_another_precision_can_be_asked_for():
    correct, scores = np.array([True, False, True]), np.array([3, 2, 1])
    assert recall_at_precision(correct, scores, 2, precision=0.6) == (1.0, 1.0)
    assert recall_at_precision(correct, scores, 2, precision=1.0) == (0.5, 3.0)


def test_ranks_count_ties_against_every_prediction_of_the_query():
    ranks = prediction_ranks(np.array([7, 7, 7, 2, 7, 2]), np.array([1.0, 3.0, 3.0, 0.5, 2.0, 0.7]))
    assert ranks.tolist() == [3, 1, 1, 1, 2, 0]


def test_rank_recall_counts_pairs_that_were_never_predicted_as_missed():
    assert rank_recall(np.array([0, 3, 0]), np.array([True, True, False]), 4, within=1) == 0.25
    assert rank_recall(np.array([0, 3, 0]), np.array([True, True, False]), 4, within=10) == 0.5


def test_predictions_for_unknown_queries_count_as_false():
    metrics = metrics_of([("Q1", "R1")], [("Q9", "R1", 2.0), ("Q1", "R1", 1.0)])
    assert (metrics.micro_ap, metrics.recall_at_p90, metrics.rank1) == (0.5, None, 1.0)


def test_predictions_for_queries_without_a_match_count_as_false():
    assert metrics_of([("Q1", "R1"), ("Q2", "")], [("Q2", "R1", 2.0), ("Q1", "R1", 1.0)]).micro_ap == 0.5


def test_an_empty_reference_is_never_a_true_prediction():
    assert metrics_of([("Q1", "R1"), ("Q2", "")], [("Q2", "", 2.0)]).micro_ap == 0.0


def test_a_query_with_two_true_references_has_two_pairs():
    metrics = metrics_of([("Q1", "R1"), ("Q1", "R2")], [("Q1", "R1", 2.0), ("Q1", "R2", 1.0)])
    assert (metrics.pairs, metrics.micro_ap, metrics.rank1) == (2, 1.0, 0.5)


def test_no_predictions_give_0_and_no_threshold():
    assert metrics_of([("Q1", "R1")], []) == ImageMetrics(0.0, None, None, 0.0, 0.0, None, 1, 0)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_pair(score):
    with pytest.raises(InputError, match="query 'Q1', reference 'R2' has the score"):
        metrics_of([("Q1", "R1")], [("Q1", "R1", 1.0), ("Q1", "R2", score)])
    with pytest.raises(InputError, match="position 1"):
        micro_average_precision(np.array([True, False]), np.array([1.0, score]), 1)


def test_the_first_pair_predicted_twice_is_named():
    rows = [("Q3", "R3", 1.0), ("Q2", "R2", 1.0), ("Q1", "R1", 1.0), ("Q2", "R2", 0.5), ("Q1", "R1", 2.0)]
    with pytest.raises(InputError, match="query 'Q2', reference 'R2' occurs more than once"):
        metrics_of([("Q1", "R1")], rows)


def test_a_true_pair_listed_twice_is_refused():
    with pytest.raises(InputError, match="ground truth: query 'Q1', reference 'R1' occurs more than once"):
        metrics_of([("Q1", "R1"), ("Q1", "R1")], [])


def test_a_ground_truth_without_a_true_pair_is_refused():
    with pytest.raises(InputError, match="has no true pair"):
        metrics_of([("Q1", "")], [("Q1", "R1", 1.0)])


def test_fewer_true_pairs_than_correct_predictions_are_refused():
    with pytest.raises(InputError, match="2 correct predictions of 1 true pairs"):
        micro_average_precision(np.array([True, True]), np.array([1.0, 2.0]), 1)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match=r"different lengths \(2, 1, 2\)"):
        Predictions(["Q1", "Q2"], ["R1"], np.array([1.0, 2.0]))


def test_a_required_precision_of_zero_is_refused():
    with pytest.raises(InputError, match="cannot be required"):
        recall_at_precision(np.array([True]), np.array([1.0]), 1, precision=0.0)


def test_each_kind_is_measured_on_its_own_queries_including_those_without_a_match():
    truth = GroundTruth(
        ["Q1", "Q2", "Q3", "Q4", "Q5"], ["R1", "R2", "", "R4", ""], ["crop", "crop", "crop", "overlay", "photo"]
    )
    rows = [("Q1", "R1", 9.0), ("Q3", "R1", 8.0), ("Q2", "R2", 7.0), ("Q2", "R9", 7.0), ("Q9", "R9", 10.0)]
    rows += [("Q5", "R9", 0.5), ("Q5", "R8", 0.49)]
    judged = judge(truth, predictions_of(rows))
    assert evaluate_by_kind(judged, threshold=8.0) == (
        KindMetrics("crop", 3, 2, 0.5, 0.5, (1 + 2 / 4) / 2, sure=2, mistaken=2, calibration_error=None),
        KindMetrics("overlay", 1, 1, 0.0, 0.0, 0.0, sure=0, mistaken=0, calibration_error=None),
        KindMetrics("photo", 1, 0, None, None, None, sure=0, mistaken=1, calibration_error=None),
    )
    assert [row.found for row in evaluate_by_kind(judged, threshold=None)] == [None, None, None]


def test_scores_that_are_probabilities_are_compared_with_the_share_of_true_pairs_of_each_kind():
    truth = GroundTruth(["Q1", "Q2", "Q3"], ["R1", "R2", ""], ["crop", "crop", "photo"])
    judged = judge(truth, predictions_of([("Q1", "R1", 0.9), ("Q2", "R2", 0.5), ("Q2", "R1", 0.5), ("Q3", "R1", 0.2)]))
    assert evaluate(judged).calibration_error == pytest.approx((0.1 + 0.0 + 0.2) / 4)
    crop, photo = (kind.calibration_error for kind in evaluate_by_kind(judged, threshold=0.5))
    assert (crop, photo) == (pytest.approx(0.1 / 3), pytest.approx(0.2))


@given(cases())
@unhurried
def test_a_single_kind_for_all_queries_gives_the_overall_figures(case):
    pairs, rows = case
    truth = GroundTruth(*zip(*pairs, strict=True), kinds=["all"] * len(pairs))
    judged = judge(truth, predictions_of([row for row in rows if row[0] in dict(pairs)]))
    overall = evaluate(judged)
    (only,) = evaluate_by_kind(judged, overall.threshold_at_p90)
    assert (only.micro_ap, only.top1, only.found) == (overall.micro_ap, overall.rank1, overall.recall_at_p90)


def test_queries_of_unknown_kind_belong_to_no_kind():
    judged = judge(GroundTruth(["Q1", "Q2"], ["R1", "R2"], ["", "crop"]), predictions_of([("Q1", "R1", 1.0)]))
    assert [(row.kind, row.pairs, row.micro_ap) for row in evaluate_by_kind(judged, 1.0)] == [("crop", 1, 0.0)]


def test_without_kinds_there_are_no_figures_by_kind():
    assert evaluate_by_kind(judge(ground_truth_of([("Q1", "R1")]), predictions_of([])), None) == ()


def test_a_query_with_two_kinds_is_refused():
    with pytest.raises(InputError, match=r"query 'Q1'.*second kind"):
        judge(GroundTruth(["Q1", "Q1"], ["R1", "R2"], ["crop", "overlay"]), predictions_of([]))
