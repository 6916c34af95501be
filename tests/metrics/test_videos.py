"""Segment AP and the pairs' micro-AP against worked cases, a literal restatement of the rule, and real ground truth."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from copytrace.errors import InputError
from copytrace.metrics.curves import PrecisionRecallCurve
from copytrace.metrics.videos import (
    Segments,
    VideoKindMetrics,
    VideoMetrics,
    evaluate_segments,
    evaluate_segments_by_kind,
    judge_segments,
    pair_curve,
    segment_curve,
)

VSC22 = Path(__file__).parents[3] / "shared" / "data" / "fixtures" / "vsc22" / "train_matching_ground_truth.csv"

Box = tuple[float, float, float, float]
True_ = tuple[str, str, *Box]
Row = tuple[str, str, float, float, float, float, float]

unhurried = settings(deadline=None, max_examples=60)  # a busy machine is no failure
needs_vsc22 = pytest.mark.skipif(not VSC22.is_file(), reason="needs the VSC 2022 fixtures in ../shared/data")


def segments_of(rows: list, scores: list[float] | None = None, source: str = "the table") -> Segments:
    times = np.array([row[2:6] for row in rows], dtype=float).reshape(-1, 4)
    return Segments([row[0] for row in rows], [row[1] for row in rows], times, scores, source=source)


def judged_of(truth: list, rows: list):
    return judge_segments(segments_of(truth), segments_of(rows, [row[6] for row in rows]))


def ap_of(truth: list, rows: list) -> float:
    return evaluate_segments(judged_of(truth, rows)).segment_ap


def one_pair(*boxes: tuple) -> list:
    return [("Q1", "R1", *box) for box in boxes]


ONE = (0, 10, 0, 10)
DIAGONAL = one_pair((0, 10, 0, 10), (20, 30, 20, 30))


@pytest.mark.parametrize(
    ("truth", "rows", "expected"),
    [
        pytest.param(one_pair(ONE), one_pair((*ONE, 1)), 1.0, id="exact"),
        pytest.param(one_pair(ONE), one_pair((0, 5, 0, 5, 1)), 0.5, id="half of the segment"),
        pytest.param(one_pair(ONE), one_pair((0, 20, 0, 20, 1)), 0.5, id="twice as long on both axes"),
        pytest.param(one_pair(ONE), one_pair((0.5, 10.5, 0.5, 10.5, 1)), 0.9025, id="half a second late"),
        pytest.param(one_pair(ONE), one_pair((0, 9, 0, 9, 1)), 0.9, id="ends one second early"),
        pytest.param(one_pair(ONE), one_pair((10, 20, 10, 20, 1)), 0.0, id="boxes touch"),
        pytest.param(one_pair(ONE), one_pair((0, 10, 10, 20, 1)), 0.0, id="overlap on the query's axis only"),
        pytest.param(one_pair(ONE), one_pair((30, 40, 0, 10, 1)), 0.0, id="overlap on the reference's axis only"),
        pytest.param(
            one_pair((0, 10, 0, 10), (10, 20, 10, 20)), one_pair((0, 20, 0, 20, 1)), 1.0, id="one box over two"
        ),
        pytest.param(one_pair(ONE), one_pair((*ONE, 2), (*ONE, 1)), 1.0, id="a duplicate"),
        pytest.param(one_pair(ONE), one_pair((*ONE, 2), (2, 4, 2, 4, 1)), 1.0, id="a smaller box within"),
        pytest.param(one_pair(ONE), one_pair((*ONE, 2), (0, 40, 0, 40, 1)), 1.0, id="a wider box at a lower score"),
        pytest.param(one_pair(ONE), one_pair((*ONE, 1), (0, 40, 0, 40, 1)), 0.25, id="a wider box at the same score"),
        pytest.param(one_pair(ONE), [], 0.0, id="no predictions"),
        pytest.param(one_pair(ONE), one_pair((3, 3, 3, 3, 1)), 0.0, id="a prediction of no length"),
        pytest.param(one_pair(ONE), one_pair((0, 10, 3, 3, 1)), 0.0, id="no length on one axis"),
        pytest.param(one_pair((-5, 5, 0, 10)), one_pair((-5, 0, 0, 5, 1)), 0.5, id="before 0 s"),
    ],
)
def test_segment_ap_of_worked_cases(truth, rows, expected):
    assert ap_of(truth, rows) == pytest.approx(expected, abs=1e-12)


def test_the_direction_in_which_a_copy_plays_does_not_matter():
    forwards = one_pair((0, 5, 0, 5, 2), (5, 10, 5, 10, 1))
    backwards = one_pair((0, 5, 5, 10, 2), (5, 10, 0, 5, 1))
    assert ap_of(one_pair(ONE), backwards) == ap_of(one_pair(ONE), forwards) == pytest.approx(1.0)


def test_predictions_off_the_diagonal_of_two_segments_find_neither():
    assert ap_of(DIAGONAL, one_pair((0, 10, 20, 30, 1), (20, 30, 0, 10, 1))) == 0.0


def test_a_true_segment_counts_once_a_prediction_meets_its_box():
    # The first box covers both segments on the query's axis, but meets only the first one. The second box, 1 s in each
    # direction, meets the second segment: all 10 of its query seconds, long predicted, are right from then on.
    rows = one_pair((0, 30, 0, 10, 2), (20, 21, 20, 21, 1))
    first = math.sqrt(10 / 30 * 10 / 10) * math.sqrt(10 / 20 * 10 / 20)
    gain = math.sqrt(20 / 20 * 11 / 20) - math.sqrt(10 / 20 * 10 / 20)
    assert ap_of(DIAGONAL, rows) == pytest.approx(first + math.sqrt(20 / 30 * 11 / 11) * gain)


def test_predictions_of_other_pairs_cost_precision_only():
    truth = [("Q1", "R2", 4, 14, 10, 18)]
    rows = [("Q2", "R2", 4, 14, 10, 18, 3.0), ("Q1", "R1", 4, 14, 10, 18, 2.0), ("Q1", "R2", 4, 14, 10, 18, 1.0)]
    assert ap_of(truth, rows) == pytest.approx(1 / 3)


def test_equal_scores_are_one_step():
    # One after the other they would earn 0.25 * 1 + 0.75 * 0.5.
    curve = segment_curve(judged_of(one_pair((0, 4, 0, 4)), one_pair((0, 1, 0, 1, 7), (1, 8, 1, 8, 7))))
    assert (curve.scores.tolist(), curve.precisions.tolist(), curve.recalls.tolist()) == ([7.0], [0.5], [1.0])
    assert curve.average_precision == 0.5


def seconds(pair: tuple[str, str], start: int, end: int) -> set[tuple[tuple[str, str], int]]:
    return {(pair, second) for second in range(start, end)}


def restated_curve(truth: list, rows: list) -> tuple[float, list[tuple[float, float, float]]]:
    """The rule read word by word, on whole seconds: sets of seconds in place of intervals."""
    true_boxes = [((query, reference), box) for query, reference, *box in truth]
    totals = [set().union(*(seconds(pair, *box[axis : axis + 2]) for pair, box in true_boxes)) for axis in (0, 2)]
    ap, previous, steps = 0.0, 0.0, []
    for score in sorted({row[6] for row in rows}, reverse=True):
        predicted_boxes = [((row[0], row[1]), row[2:6]) for row in rows if row[6] >= score]
        met = [
            (pair, a)
            for pair, a in true_boxes
            if any(
                pair == other and max(0, min(a[1], b[1]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[2], b[2]))
                for other, b in predicted_boxes
            )
        ]
        precision = recall = 1.0
        for axis, total in zip((0, 2), totals, strict=True):
            united = set().union(*(seconds(pair, *box[axis : axis + 2]) for pair, box in predicted_boxes))
            right = united & set().union(*(seconds(pair, *box[axis : axis + 2]) for pair, box in met))
            precision *= len(right) / len(united) if united else 0.0
            recall *= len(right) / len(total)
        precision, recall = math.sqrt(precision), math.sqrt(recall)
        ap += precision * (recall - previous)
        previous = recall
        steps.append((score, precision, recall))
    return ap, steps


@st.composite
def boxes(draw: st.DrawFn, shortest: int = 0) -> tuple:
    spans = [(start := draw(st.integers(-2, 12)), start + draw(st.integers(shortest, 7))) for _ in range(2)]
    query, reference = draw(st.sampled_from(["Q1", "Q2"])), draw(st.sampled_from(["R1", "R2"]))
    return (query, reference, *spans[0], *spans[1])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list, list]:
    """Few pairs, few seconds and few distinct scores, hence many overlaps, touching edges and ties."""
    truth = [draw(boxes(shortest=1)), *draw(st.lists(boxes(), max_size=5))]
    scored = st.tuples(boxes(), st.integers(-2, 4)).map(lambda row: (*row[0], float(row[1])))
    return truth, draw(st.lists(scored, max_size=14))


@given(cases())
@settings(unhurried, max_examples=300)
def test_the_curve_agrees_with_a_literal_restatement_of_the_rule(case):
    curve = segment_curve(judged_of(*case))
    ap, steps = restated_curve(*case)
    assert curve.average_precision == pytest.approx(ap, abs=1e-12)
    ours = np.stack([curve.scores, curve.precisions, curve.recalls], axis=1)
    np.testing.assert_allclose(ours, np.reshape(steps, (-1, 3)), atol=1e-12)


@given(cases(), st.randoms(use_true_random=False))
@unhurried
def test_neither_the_order_of_the_rows_nor_duplicates_matter(case, random):
    truth, rows = case
    more = random.choices(rows, k=5) if rows else []
    shuffled = random.sample(rows + more, len(rows + more)), random.sample(truth * 2, 2 * len(truth))
    before, after = evaluate_segments(judged_of(truth, rows)), evaluate_segments(judged_of(shuffled[1], shuffled[0]))
    assert after.segment_ap == pytest.approx(before.segment_ap, abs=1e-12)
    assert after.recall == pytest.approx(before.recall, abs=1e-12)
    assert (after.pair_ap, after.pairs) == (before.pair_ap, before.pairs)


@given(cases())
@unhurried
def test_every_figure_lies_between_0_and_1(case):
    metrics = evaluate_segments(judged_of(*case))
    figures = (metrics.segment_ap, metrics.recall, metrics.recall_at_p90 or 0.0, metrics.pair_ap)
    assert all(0.0 <= figure <= 1.0 for figure in figures)


@given(cases())
@unhurried
def test_cutting_every_prediction_in_two_by_both_diagonal_halves_of_its_times_is_the_same_union(case):
    truth, rows = case
    halves = []
    for query, reference, a, b, c, d, score in rows:
        m, n = (a + b) / 2, (c + d) / 2
        halves += [(query, reference, *box, score) for box in ((a, m, c, n), (a, m, n, d), (m, b, c, n), (m, b, n, d))]
    whole, cut = segment_curve(judged_of(truth, rows)), segment_curve(judged_of(truth, halves))
    np.testing.assert_allclose(cut.recalls, whole.recalls, atol=1e-12)
    np.testing.assert_allclose(cut.precisions, whole.precisions, atol=1e-12)


@given(cases())
@unhurried
def test_pair_micro_ap_is_scikit_learns_average_precision_times_the_share_of_true_pairs_found(case):
    truth, rows = case
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        best[row[:2]] = max(row[6], best.get(row[:2], -math.inf))
    pairs = {row[:2] for row in truth}
    correct = [pair in pairs for pair in best]
    expected = average_precision_score(correct, list(best.values())) * sum(correct) / len(pairs) if any(correct) else 0
    assert evaluate_segments(judged_of(truth, rows)).pair_ap == pytest.approx(expected, abs=1e-12)


def test_a_negative_best_score_is_as_good_as_any_other():
    truth = [("Q1", "R1", *ONE)]
    rows = [("Q1", "R1", *ONE, -0.5), ("Q2", "R1", *ONE, -0.7), ("Q1", "R1", *ONE, -0.9)]
    assert pair_curve(judged_of(truth, rows)).average_precision == 1.0


def test_no_predictions_give_0_and_no_threshold():
    metrics = evaluate_segments(judged_of(one_pair(ONE), []))
    assert metrics == VideoMetrics(0.0, None, None, 0.0, 0.0, None, segments=1, pairs=1, predictions=0)


def test_each_score_is_a_step_of_precision_and_recall():
    curve = segment_curve(judged_of(one_pair(ONE), one_pair((0, 5, 0, 5, 0.8), (5, 20, 5, 20, 0.4))))
    assert curve.points() == {"score": [0.8, 0.4], "precision": [1.0, 0.5], "recall": [0.5, 1.0]}


def test_recall_at_90_percent_precision_is_that_of_the_lowest_step_that_reaches_it():
    rows = one_pair((0, 5, 0, 5, 3), (20, 25, 20, 25, 2), (5, 10, 5, 10, 1))
    assert segment_curve(judged_of(one_pair(ONE), rows[:1])).recall_at_precision() == (0.5, 3.0)
    truth = one_pair((0, 100, 0, 100))
    rows = one_pair((200, 210, 200, 210, 5), (0, 90, 0, 90, 4), (0, 10, 0, 10, 3), (0, 100, 0, 100, 2))
    point = segment_curve(judged_of(truth, rows[:3])).recall_at_precision()
    assert point == (pytest.approx(0.9), 4.0)  # exactly 90 %, and the row below gains nothing
    assert segment_curve(judged_of(truth, rows)).recall_at_precision() == (pytest.approx(1.0), 2.0)
    assert segment_curve(judged_of(truth, rows[:1])).recall_at_precision() is None


def test_a_precision_of_0_is_not_reached_by_finding_nothing():
    with pytest.raises(InputError, match="cannot be required"):
        segment_curve(judged_of(one_pair(ONE), [])).recall_at_precision(0.0)


def test_points_leave_out_steps_that_find_nothing_new():
    curve = PrecisionRecallCurve(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.9, 0.8]), np.array([0.5, 0.5, 0.6]))
    assert curve.points() == {"score": [3.0, 1.0], "precision": [1.0, 0.8], "recall": [0.5, 0.6]}


def test_each_word_of_a_querys_edits_is_a_kind_measured_on_its_own_queries():
    truth = [("Q1", "R1", *ONE), ("Q2", "R2", *ONE), ("Q2", "R3", *ONE)]
    rows = [("Q1", "R1", 0, 5, 0, 5, 9.0), ("Q2", "R2", *ONE, 8.0), ("Q3", "R1", *ONE, 7.0), ("Q4", "R1", *ONE, 10.0)]
    rows += [("Q3", "R2", *ONE, 0.1)]
    kinds = {"Q1": "flip crop flip", "Q2": "flip", "Q3": "crop", "Q5": "crop blur", "Q1 ": "", "Q6": "  "}
    half_found = (5 + 10) / 30
    assert evaluate_segments_by_kind(judged_of(truth, rows), kinds) == (
        VideoKindMetrics("blur", 1, 0, None, None, sure=0, mistaken=0, calibration_error=None),
        VideoKindMetrics("crop", 3, 1, 0.5, 0.5, sure=1, mistaken=1, calibration_error=None),
        VideoKindMetrics("flip", 2, 3, half_found, half_found, sure=2, mistaken=0, calibration_error=None),
    )


def test_a_pair_of_videos_has_the_probability_of_its_best_segment():
    truth = [("Q1", "R1", *ONE), ("Q2", "R2", *ONE)]
    rows = [("Q1", "R1", *ONE, 0.75), ("Q1", "R1", *ONE, 0.1), ("Q2", "R1", *ONE, 0.25), ("Q3", "R1", *ONE, 0.25)]
    judged = judged_of(truth, rows)
    assert evaluate_segments(judged).calibration_error == pytest.approx((0.25 + 2 * 0.25) / 3)
    (kind,) = evaluate_segments_by_kind(judged, {"Q1": "flip"})
    assert kind.calibration_error == pytest.approx(0.25)


@given(cases())
@unhurried
def test_a_kind_has_the_figures_of_its_queries_alone(case):
    truth, rows = case
    (kind,) = evaluate_segments_by_kind(judged_of(truth, rows), {truth[0][0]: "blur"})
    own = [[row for row in table if row[0] == truth[0][0]] for table in (truth, rows)]
    alone = evaluate_segments(judged_of(*own))
    assert (kind.segment_ap, kind.recall) == (pytest.approx(alone.segment_ap), pytest.approx(alone.recall))
    assert kind.segments == alone.segments


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_row(score):
    with pytest.raises(InputError, match=r"the table: row 2 \(query 'Q1', reference 'R1'\) has the score"):
        judged_of(one_pair(ONE), one_pair((*ONE, 1.0), (*ONE, score)))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        pytest.param((5, 3, 0, 1), "the query's segment ends at 3.0 before 5.0; give the earlier time", id="query"),
        pytest.param((0, 1, 5, 3), "the reference's segment ends at 3.0 before 5.0", id="reference"),
        pytest.param((0, math.nan, 0, 1), "has the times .*nan.*give finite seconds", id="nan"),
        pytest.param((0, 1, -math.inf, 1), "has the times .*inf.*give finite seconds", id="infinite"),
    ],
)
def test_impossible_times_are_refused_in_either_table(box, message):
    with pytest.raises(InputError, match=rf"row 2 .*{message}"):
        judged_of(one_pair(ONE), one_pair((*ONE, 1.0), (*box, 1.0)))
    with pytest.raises(InputError, match=rf"row 2 .*{message}"):
        judged_of(one_pair(ONE, box), [])


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        pytest.param([], "no true second on the query's axis.*give at least one row$", id="empty"),
        pytest.param(one_pair((3, 3, 0, 9)), "on the query's axis.*one row with a length", id="no length in the query"),
        pytest.param(one_pair((0, 9, 3, 3)), "on the reference's axis.*with a length", id="no length in the reference"),
    ],
)
def test_a_ground_truth_without_a_second_is_refused(truth, message):
    for rows in ([], one_pair((*ONE, 1.0))):
        with pytest.raises(InputError, match=message):
            judged_of(truth, rows)


def test_predictions_without_scores_are_refused():
    with pytest.raises(InputError, match="the table has no scores"):
        judge_segments(segments_of(one_pair(ONE)), segments_of(one_pair(ONE)))


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"2 queries, 1 references, times of shape \(2, 4\)"):
        Segments(["Q1", "Q2"], ["R1"], np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"times of shape \(1, 3\)"):
        Segments(["Q1"], ["R1"], np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"1 rows, but scores of shape \(2,\)"):
        Segments(["Q1"], ["R1"], np.zeros((1, 4)), [1.0, 2.0])


@pytest.fixture(scope="module")
def vsc22() -> Segments:
    with VSC22.open() as file:
        rows = list(csv.DictReader(file))
    names = ("query_start", "query_end", "ref_start", "ref_end")
    times = np.array([[float(row[name]) for name in names] for row in rows])
    return Segments([row["query_id"] for row in rows], [row["ref_id"] for row in rows], times)


@pytest.fixture(scope="module")
def single(vsc22) -> Segments:
    """The pairs with one segment, so that unions are sums and figures can be worked out by hand."""
    pairs = list(zip(vsc22.queries, vsc22.references, strict=True))
    rows = [row for row, pair in enumerate(pairs) if pairs.count(pair) == 1]
    queries, references = zip(*(pairs[row] for row in rows), strict=True)
    return Segments(queries, references, vsc22.times[rows])


def ap_of_changed(truth: Segments, times: np.ndarray, scores: np.ndarray | None = None) -> float:
    scores = np.zeros(len(times)) if scores is None else scores
    predictions = dataclasses.replace(truth, times=times, scores=scores)
    return evaluate_segments(judge_segments(truth, predictions)).segment_ap


@needs_vsc22
def test_the_real_ground_truth_against_itself_is_perfect_whatever_the_scores(vsc22):
    scores = np.random.default_rng(0).random(len(vsc22.times))
    metrics = evaluate_segments(judge_segments(vsc22, dataclasses.replace(vsc22, scores=scores)))
    assert (metrics.segment_ap, metrics.recall, metrics.pair_ap) == pytest.approx((1.0, 1.0, 1.0))
    assert (metrics.segments, metrics.pairs) == (2707, 2424)
    assert metrics.recall_at_p90 == pytest.approx(1.0)


@needs_vsc22
def test_real_segments_halved_or_doubled_in_length_score_a_half(single):
    starts, lengths = single.times[:, [0, 0, 2, 2]], np.diff(single.times)[:, [0, 2]].repeat(2, axis=1)
    half, double = np.array([0, 0.5, 0, 0.5]), np.array([0, 2.0, 0, 2.0])
    assert ap_of_changed(single, starts + lengths * half) == pytest.approx(0.5)
    assert ap_of_changed(single, starts + lengths * double) == pytest.approx(0.5)
    scores = np.random.default_rng(0).random(len(starts))
    assert ap_of_changed(single, starts + lengths * half, scores) == pytest.approx(0.5)


@needs_vsc22
def test_real_segments_shifted_by_half_a_second_lose_half_a_second_each_of_precision_and_of_recall(single):
    lengths = np.diff(single.times)[:, [0, 2]]
    assert lengths.min() > 0.5
    # On each axis precision and recall are both 1 - 0.5 n / total, so P * R is the product of the axes' shares.
    query_share, reference_share = 1 - 0.5 * len(lengths) / lengths.sum(axis=0)
    assert ap_of_changed(single, single.times + 0.5) == pytest.approx(query_share * reference_share)


@needs_vsc22
def test_real_segments_of_swapped_references_find_nothing(single):
    others = dataclasses.replace(
        single, references=[f"{name}x" for name in single.references], scores=np.ones(len(single.times))
    )
    assert evaluate_segments(judge_segments(single, others)).segment_ap == 0.0
