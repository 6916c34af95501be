from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from copytrace.matching.score import probability
from copytrace.metrics.reliability import expected_calibration_error
from copytrace.training.calibration import fit_logistic


def drawn(weights: list[float], bias: float, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a logistic model that is known."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(count, len(weights)))
    chance = 1 / (1 + np.exp(-(features @ weights + bias)))
    return features, rng.random(count) < chance


def test_weights_that_made_the_labels_are_found_again() -> None:
    features, labels = drawn([2.0, 0.7], -1.0)
    weights, bias = fit_logistic(features, labels)
    # Of 40,000 draws the standard errors are 0.02 and less.
    assert [*weights, bias] == pytest.approx([2.0, 0.7, -1.0], abs=0.12)


def test_the_fit_is_that_of_scikit_learn_where_no_weight_would_be_negative() -> None:
    features, labels = drawn([1.5, 0.5, 1.0], 0.3)
    peer = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(features / features.std(axis=0), labels)
    weights, bias = fit_logistic(features, labels)
    assert list(weights) == pytest.approx(list(peer.coef_[0] / features.std(axis=0)), abs=1e-3)
    assert bias == pytest.approx(peer.intercept_[0], abs=1e-3)


def test_evidence_that_speaks_against_copies_gets_no_weight() -> None:
    features, labels = drawn([1.5, -1.0], 0.0)
    weights, _ = fit_logistic(features, labels)
    assert weights[1] == 0.0
    assert weights[0] > 0.5


def test_probabilities_of_a_fitted_model_are_calibrated() -> None:
    features, labels = drawn([2.0, 0.7], -1.0)
    weights, bias = fit_logistic(features, labels)
    assert expected_calibration_error(probability(features @ weights + bias), labels) < 0.02
