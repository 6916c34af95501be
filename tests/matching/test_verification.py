from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.images import VerificationSettings
from copytrace.features.points import MIRRORED_ORDER, NEGATIVE_ORDER, Points
from copytrace.features.variants import VARIANTS
from copytrace.matching.verification import (
    LOOSE_OCTAVES,
    LOOSE_RADIANS,
    LOOSE_TOLERANCE,
    is_plausible,
    largest_agreeing_set,
    verify,
)

Floats = NDArray[np.float32]
Make = Callable[..., Points]
Descriptors = Callable[[int, int], NDArray[np.uint8]]
RULES = VerificationSettings(ratio=0.85, tolerance=0.02, max_stretch=5, max_scale=25)
PLAIN, MIRRORED, NEGATIVE, BOTH = VARIANTS


def similarity(degrees: float, scale: float, dx: float, dy: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.deg2rad(degrees)) * scale, np.sin(np.deg2rad(degrees)) * scale
    return np.array([[cosine, -sine, dx], [sine, cosine, dy]])


def scattered(count: int, seed: int = 0) -> Floats:
    """Return keypoints x, y, scale, angle in a picture of 100 × 100 pixels, no two at one place."""
    random = np.random.default_rng(seed)
    places = random.permutation(81)[:count]
    x, y = 10.0 + 10 * (places % 9), 10.0 + 10 * (places // 9)
    return np.stack([x, y, random.uniform(2, 6, count), random.uniform(-3, 3, count)], axis=1).astype(np.float32)


def moved(keypoints: Floats, transform: NDArray[np.float64]) -> Floats:
    """Return keypoints as `transform` shows them: scale by the root of the area, angle by the turned direction."""
    linear = transform[:, :2]
    places = keypoints[:, :2] @ linear.T + transform[:, 2]
    towards = np.stack([np.cos(keypoints[:, 3]), np.sin(keypoints[:, 3])], axis=1) @ linear.T
    scale = keypoints[:, 2] * np.sqrt(abs(np.linalg.det(linear)))
    return np.column_stack([places, scale, np.arctan2(towards[:, 1], towards[:, 0])]).astype(np.float32)


TRANSFORMS = {
    "identity": similarity(0, 1, 0, 0),
    "turned": similarity(40, 0.7, 30, 5),
    "upside down": similarity(180, 0.5, 90, 80),
    "pasted small": similarity(-15, 0.3, 20, 40),
    "enlarged crop": similarity(5, 2.5, -80, -60),
    "sheared": np.array([[0.8, 0.2, 5.0], [-0.1, 0.7, 20.0]]),
    "squeezed": np.array([[0.6, 0.0, 20.0], [0.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_recovered_among_outliers(name: str, points_of: Make, random_descriptors: Descriptors) -> None:
    there, transform = scattered(40), TRANSFORMS[name]
    here = moved(there, transform)
    here[25:] = scattered(15, seed=9)  # matches by descriptor, but nowhere near
    descriptors = random_descriptors(40, 0)
    found = verify(points_of(here, descriptors), points_of(there, descriptors), PLAIN, RULES)
    assert found.ratio_matches == 40
    assert 16 <= found.inliers <= 28
    assert found.agreement == found.inliers / 40
    assert found.transform is not None
    expected = transform / [1, 1, 100]  # shares of pictures of 100 × 100 pixels
    np.testing.assert_allclose(found.transform, expected, atol=0.02)
    np.testing.assert_allclose(
        found.query_points, found.reference_points @ expected[:, :2].T + expected[:, 2], atol=0.03
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=["plain", "mirrored", "negative", "both"])
def test_an_edited_picture_is_explained_only_by_its_own_variant(
    variant: object, points_of: Make, random_descriptors: Descriptors
) -> None:
    there, descriptors = scattered(30), random_descriptors(30, 1)
    number = VARIANTS.index(variant)
    mirrored, negative = number % 2 == 1, number >= 2
    transform = np.array([[-0.9, 0.1, 95.0], [0.1, 0.9, 0.0]]) if mirrored else similarity(10, 0.9, 8, -2)
    here, seen = moved(there, transform), descriptors
    if mirrored:
        seen = seen[:, MIRRORED_ORDER]
    if negative:
        seen = seen[:, NEGATIVE_ORDER]
        here[:, 3] += np.pi
    query, reference = points_of(here, seen), points_of(there, descriptors)
    for tried in VARIANTS:
        found = verify(query, reference, tried, RULES)
        assert (found.mirrored, found.negative) == (tried.mirrored, tried.negative)
        if tried == variant:
            assert found.inliers == 30
            assert found.transform is not None
            np.testing.assert_allclose(found.transform, transform / [1, 1, 100], atol=0.01)
        else:
            assert found.inliers < 6


def test_transforms_are_told_in_shares_of_each_picture(points_of: Make, random_descriptors: Descriptors) -> None:
    there, descriptors = scattered(20), random_descriptors(20, 2)
    here = moved(there, similarity(0, 1, 100, 0))  # to the right half of a picture twice as wide
    found = verify(points_of(here, descriptors, width=200, height=100), points_of(there, descriptors), PLAIN, RULES)
    assert found.inliers == 20
    assert found.transform is not None
    np.testing.assert_allclose(found.transform, [[0.5, 0, 0.5], [0, 1, 0]], atol=1e-3)


def test_coverage_is_the_share_of_the_reference_inside_the_inliers(
    points_of: Make, random_descriptors: Descriptors
) -> None:
    corners = np.array([[20, 20, 2, 0], [70, 20, 2, 0], [70, 60, 2, 0], [20, 60, 2, 0], [40, 40, 2, 0]], np.float32)
    points = points_of(corners, random_descriptors(5, 3))
    assert verify(points, points, PLAIN, RULES).coverage == pytest.approx(0.5 * 0.4, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_few_matches_are_counted_without_a_transform(
    count: int, points_of: Make, random_descriptors: Descriptors
) -> None:
    points = points_of(scattered(count), random_descriptors(count, 4))
    found = verify(points, points, PLAIN, RULES)
    assert (found.inliers, found.transform) == (count, None)
    assert found.query_points.shape == found.reference_points.shape == (count, 2)
    assert found.agreement == (1.0 if count else 0.0)


def test_matches_that_disagree_leave_one(points_of: Make, random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(2, 5)
    there = points_of([[10, 10, 2, 0], [80, 80, 2, 0]], descriptors)
    here = points_of([[10, 10, 2, 0], [10, 90, 2, 2]], descriptors)
    assert verify(here, there, PLAIN, RULES).inliers == 1


def test_matches_all_at_one_place_are_one_piece_of_evidence(points_of: Make, random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(12, 6)
    points = points_of([[50, 50, 4, 0.3 * n / 12] for n in range(12)], descriptors)
    assert verify(points, points, PLAIN, RULES).inliers <= 1


def test_points_on_one_line_do_not_raise(points_of: Make, random_descriptors: Descriptors) -> None:
    points = points_of([[5.0 * n, 50, 3, 0] for n in range(1, 15)], random_descriptors(14, 7))
    found = verify(points, points, PLAIN, RULES)
    assert found.coverage == pytest.approx(0, abs=1e-6)
    assert found.inliers <= 14


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 10**6))
def test_any_geometry_gives_whole_evidence(
    points_of: Make, random_descriptors: Descriptors, count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    descriptors = random_descriptors(count, seed)
    sides = []
    for _ in range(2):
        coarse = np.rint(random.random((count, 4)) * random.choice([1, 3, 100]))
        coarse[:, 2] += 1
        sides.append(points_of(coarse, descriptors))
    found = verify(*sides, PLAIN, RULES)
    assert 0 <= found.inliers <= found.ratio_matches <= count
    assert len(found.query_points) == len(found.reference_points) == found.inliers
    assert 0 <= found.coverage <= 1.03
    assert found.transform is None or np.isfinite(found.transform).all()


@pytest.mark.parametrize(
    ("linear", "plausible"),
    [
        ([[1, 0], [0, 1]], True),
        ([[-1, 0], [0, 1]], True),
        ([[4.9, 0], [0, 1]], True),
        ([[5.1, 0], [0, 1]], False),
        ([[24, 0], [0, 24]], True),
        ([[26, 0], [0, 26]], False),
        ([[0.041, 0], [0, 0.041]], True),
        ([[0.039, 0], [0, 0.039]], False),
        ([[1, 1], [1, 1]], False),
        ([[0, 0], [0, 0]], False),
    ],
)
def test_transforms_that_nobody_makes_are_implausible(linear: list[list[float]], plausible: bool) -> None:
    transform = np.column_stack([np.array(linear, np.float64), [3.0, -2.0]])
    assert is_plausible(transform, RULES) == plausible


def test_an_implausible_transform_leaves_no_inliers(points_of: Make, random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(40, 8)
    there = scattered(40)
    here = moved(there, np.diag([1.0, 0.5]) @ similarity(0, 1, 0, 0))
    rules = RULES.model_copy(update={"max_stretch": 1.5})
    query, reference = points_of(here, descriptors), points_of(there, descriptors)
    assert verify(query, reference, PLAIN, RULES).inliers == 40
    found = verify(query, reference, PLAIN, rules)
    assert (found.inliers, found.transform, found.ratio_matches) == (0, None, 40)


def test_the_same_points_give_the_same_evidence(points_of: Make, random_descriptors: Descriptors) -> None:
    there, descriptors = scattered(60), random_descriptors(60, 9)
    here = moved(there, TRANSFORMS["turned"])
    here[::2] = scattered(30, seed=10)
    query, reference = points_of(here, descriptors), points_of(there, descriptors)
    first, second = (verify(query, reference, PLAIN, RULES) for _ in range(2))
    assert first.inliers == second.inliers
    np.testing.assert_array_equal(first.transform, second.transform)
    np.testing.assert_array_equal(first.query_points, second.query_points)


def agreeing_by_hand(here: Floats, there: Floats) -> list[int]:
    """Return what `largest_agreeing_set` does, one pair of matches at a time."""
    best: list[int] = []
    for one in range(len(here)):
        scale, turn = here[one, 2] / there[one, 2], here[one, 3] - there[one, 3]
        rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        agreeing = []
        for other in range(len(here)):
            expected = here[one, :2] + rotation @ (there[other, :2] - there[one, :2])
            octaves = np.log2(here[other, 2] / there[other, 2] / scale)
            turned = here[other, 3] - there[other, 3] - turn
            if (
                np.hypot(*(expected - here[other, :2])) < LOOSE_TOLERANCE
                and abs(octaves) < LOOSE_OCTAVES
                and abs((turned + np.pi) % (2 * np.pi) - np.pi) < LOOSE_RADIANS
            ):
                agreeing.append(other)
        if len(agreeing) > len(best):
            best = agreeing
    return best


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 25), st.integers(0, 10**6))
def test_agreeing_matches_are_those_of_a_literal_loop(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    there = np.column_stack([random.random((count, 2)), random.uniform(0.01, 0.1, count), random.uniform(-4, 4, count)])
    here = moved(there.astype(np.float32), similarity(random.uniform(0, 360), 0.8, 0.1, 0.2)).astype(np.float64)
    here += random.normal(0, [0.05, 0.05, 0.002, 0.3], here.shape)
    here[:, 2] = np.maximum(here[:, 2], 0.003)
    # Double precision on both sides: a match on the very edge should fall on the same side of it.
    assert largest_agreeing_set(here, there).tolist() == agreeing_by_hand(here, there)
