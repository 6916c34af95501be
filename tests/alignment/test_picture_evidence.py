from __future__ import annotations

import pytest

from copytrace.alignment.picture_evidence import REFUTED_SCORE, Moment, verified_score
from copytrace.matching.same_picture import Agreement


def moment(
    probability: float,
    *,
    similarity: float = 0.95,
    drawn: float = 1.0,
    points: int = 300,
    compared: bool = False,
    ground: float = 0.2,
    is_plain: bool = False,
) -> Moment:
    return Moment(similarity, Agreement(probability, drawn, points, compared), ground, is_plain)


@pytest.mark.parametrize(
    ("moments", "above"),
    [
        pytest.param([moment(0.99), moment(0.99), moment(0.0)], True, id="two moments support it"),
        pytest.param([moment(0.99)], True, id="the only one that can be seen supports it"),
        pytest.param([moment(0.99), moment(0.0), moment(0.0)], False, id="one of three supports it"),
        pytest.param([moment(0.99, drawn=0.0)] * 3, False, id="photographs of one place"),
        pytest.param([moment(0.99, points=40)] * 3, False, id="the few points of a frame"),
        pytest.param([], False, id="nothing can be seen"),
        pytest.param([moment(0.0, points=5)] * 3, False, id="hardly any points"),
        pytest.param([moment(0.0, similarity=0.5)] * 3, False, id="not alike"),
        pytest.param([moment(0.0, similarity=0.99)] * 3, False, id="the same"),
    ],
)
def test_a_segment_is_raised_by_two_moments_of_drawn_pictures_and_otherwise_kept(
    moments: list[Moment], above: bool
) -> None:
    if above:
        assert verified_score(0.1, moments) > 0.9
    else:
        assert verified_score(0.1, moments) == pytest.approx(0.1)


def test_a_segment_of_alike_pictures_whose_points_disagree_is_refuted() -> None:
    assert verified_score(0.99, [moment(0.1)] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.01, [moment(0.1)] * 3) == pytest.approx(0.01)


def test_one_moment_that_agrees_is_not_enough_where_the_ink_of_two_others_differs() -> None:
    differs = moment(0.05, similarity=0.6, compared=True)
    assert verified_score(0.99, [differs, moment(0.99), differs]) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.99, [differs, moment(0.99), moment(0.99)]) > 0.99


def test_points_of_drawn_pictures_refute_a_segment_at_less_similarity_than_those_of_photographs() -> None:
    photograph, page = (moment(0.0, similarity=0.7, ground=ground) for ground in (0.2, 0.7))
    assert verified_score(0.9, [photograph] * 3) == pytest.approx(0.9)
    assert verified_score(0.9, [page] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.9, [moment(0.0, similarity=0.5, ground=0.7)] * 3) == pytest.approx(0.9)


def test_plain_pictures_beside_others_refute_a_segment_without_points() -> None:
    plain = moment(0.0, points=0, is_plain=True)
    assert verified_score(0.9, [plain] * 3) == pytest.approx(REFUTED_SCORE)
    assert verified_score(0.9, [plain, plain, moment(0.0, points=0)]) == pytest.approx(0.9)
    assert verified_score(0.9, [plain, plain, moment(0.99)]) > 0.9


def test_the_order_of_supported_segments_is_kept() -> None:
    scores = [verified_score(score, [moment(0.99)] * 3) for score in (0.0, 0.2, 0.6, 0.99)]
    assert scores == sorted(set(scores))
    assert scores[-1] < 1.0
