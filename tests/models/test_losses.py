from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.losses import info_nce, koleo, margin_loss

YES, NO = True, False


def loss_of(
    similarity: list[list[float]], positive: list[list[bool]], ignored: list[list[bool]] | None = None
) -> float:
    cosines = torch.tensor(similarity)
    nothing = torch.zeros_like(cosines, dtype=torch.bool)
    return info_nce(cosines, torch.tensor(positive), nothing if ignored is None else torch.tensor(ignored), 0.5).item()


def test_info_nce_of_two_anchors_worked_out_by_hand() -> None:
    # Cosines over a temperature of 0.5 are 1.6, 0.4, 0 and -0.4, 1.2, 0.8.
    first = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(0.4) + 1))
    second = -math.log(math.exp(1.2) / (math.exp(-0.4) + math.exp(1.2) + math.exp(0.8)))
    loss = loss_of([[0.8, 0.2, 0.0], [-0.2, 0.6, 0.4]], [[YES, NO, NO], [NO, YES, NO]])
    assert loss == pytest.approx((first + second) / 2, rel=1e-6)


def test_positives_of_one_anchor_do_not_compete() -> None:
    both = loss_of([[0.8, 0.6, 0.2]], [[YES, YES, NO]])
    alone = [loss_of([[cosine, 0.2]], [[YES, NO]]) for cosine in (0.8, 0.6)]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-6)


def test_what_is_ignored_changes_nothing() -> None:
    plain = loss_of([[0.8, 0.2]], [[YES, NO]])
    with_a_negative = loss_of([[0.8, 0.2, 0.9]], [[YES, NO, NO]], [[NO, NO, YES]])
    with_a_positive = loss_of([[0.8, 0.2, 0.1]], [[YES, NO, YES]], [[NO, NO, YES]])
    assert plain == with_a_negative == with_a_positive


def test_info_nce_without_positives_is_zero() -> None:
    assert loss_of([[0.3, 0.4]], [[NO, NO]]) == 0.0


def test_an_anchor_without_negatives_costs_nothing_and_has_finite_gradients() -> None:
    cosines = torch.tensor([[0.5, 0.1], [0.5, 0.1]], requires_grad=True)
    positive = torch.tensor([[YES, YES], [YES, NO]])
    loss = info_nce(cosines, positive, torch.zeros_like(positive), 0.05)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-8)) / 3, rel=1e-4)
    assert gradient_of(cosines)[0].tolist() == [0.0, 0.0]
    assert gradient_of(cosines)[1].abs().min() > 0


@pytest.mark.parametrize("temperature", [0.05, 0.001])
def test_gradients_are_finite_where_cosines_are_extreme(temperature: float) -> None:
    cosines = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], requires_grad=True)
    positive = torch.tensor([[YES, NO, NO], [YES, NO, NO]])
    info_nce(cosines, positive, torch.zeros_like(positive), temperature).backward()
    assert gradient_of(cosines).isfinite().all()


def test_koleo_of_two_opposite_vectors_by_hand() -> None:
    itself = torch.eye(2, dtype=torch.bool)
    assert koleo(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), itself).item() == pytest.approx(-math.log(2))


def test_koleo_looks_at_the_nearest_unrelated_vector() -> None:
    found = koleo(torch.tensor([[0.9, 0.5, -0.5]]), torch.tensor([[YES, NO, NO]]))
    assert found.item() == pytest.approx(0.0, abs=1e-6)  # at a cosine of 0.5 the distance is 1


def test_koleo_leaves_out_rows_that_know_nothing_unrelated() -> None:
    cosines = torch.tensor([[1.0, -1.0], [0.3, 0.2]], requires_grad=True)
    loss = koleo(cosines, torch.tensor([[YES, NO], [YES, YES]]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2))
    assert gradient_of(cosines)[1].tolist() == [0.0, 0.0]


def test_koleo_of_related_vectors_only_is_zero() -> None:
    assert koleo(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)).item() == 0.0


def test_koleo_of_equal_vectors_is_finite_and_so_is_its_gradient() -> None:
    vectors = torch.ones(3, 1, requires_grad=True)
    loss = koleo(vectors @ vectors.T, torch.eye(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-3), rel=1e-3)
    assert gradient_of(vectors).isfinite().all()


def gradient_of(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def test_the_margin_loss_is_the_mean_of_the_triplets_that_violate_it() -> None:
    # Squared distances of the first anchor: 0.4 to its copy, and 0.8, 2 and 1.2 to others; that of 2 is far enough, and
    # the last does not count. The second anchor has no copy.
    cosines = torch.tensor([[0.8, 0.6, 0.0, 0.4], [0.6, 0.9, 0.9, 0.9]])
    positive = torch.tensor([[YES, NO, NO, NO], [NO, NO, NO, NO]])
    ignored = torch.tensor([[NO, NO, NO, YES], [NO, NO, NO, NO]])
    assert margin_loss(cosines, positive, ignored, 1.0).item() == pytest.approx(0.4 - 0.8 + 1.0)
    assert margin_loss(cosines, positive, ignored, 1.7).item() == pytest.approx(((0.4 - 0.8) + (0.4 - 2)) / 2 + 1.7)
    assert margin_loss(cosines, positive & False, ignored, 1.0).item() == 0.0
