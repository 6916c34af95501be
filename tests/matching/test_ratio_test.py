from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from configs.images import PointSettings
from copytrace.features.points import MIRRORED_ORDER, Points, find_points
from copytrace.matching.verification import imgfp_score, ratio_matches, squared_distances
from copytrace.media.decode import decode_image

Bytes = NDArray[np.uint8]
MakePoints = Callable[..., Points]


def one_hot(*places: int, height: int = 100) -> Bytes:
    """Return a descriptor per place: `height` there and 0 elsewhere. Two of them are 2 · height² apart, squared."""
    rows = np.zeros((len(places), 128), np.uint8)
    rows[np.arange(len(places)), places] = height
    return rows


def at(*places: tuple[float, float]) -> list[list[float]]:
    return [[x, y, 2.0, 0.0] for x, y in places]


def shifted(descriptor: Bytes, by: int) -> Bytes:
    """Return a descriptor by² away, squared."""
    moved = descriptor.copy()
    moved[..., -1] += by
    return moved


few_bytes = arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(128)), elements=st.integers(0, 255))


@settings(max_examples=50, deadline=None)
@given(few_bytes, few_bytes)
def test_squared_distances_are_those_of_whole_numbers(first: Bytes, second: Bytes) -> None:
    expected = ((first[:, None].astype(np.int64) - second[None].astype(np.int64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(squared_distances(first, second).astype(np.int64), expected)


def test_squared_distances_are_exact_where_they_are_largest() -> None:
    black, white = np.zeros((40, 128), np.uint8), np.full((40, 128), 255, np.uint8)
    assert (squared_distances(black, white) == 128 * 255**2).all()
    assert (squared_distances(white, white) == 0).all()


def test_a_match_must_be_nearer_than_the_ratio_of_the_second() -> None:
    # 30 from the first reference point and 40 from the second, so a ratio of 0.75.
    query = np.zeros((1, 128), np.uint8)
    reference = np.concatenate([one_hot(0, height=30), one_hot(1, height=40)])
    assert ratio_matches(query, reference, 0.76).tolist() == [[0, 0]]
    assert ratio_matches(query, reference, 0.75).tolist() == []


def test_a_reference_point_goes_to_its_nearest_query_point() -> None:
    query = np.concatenate([shifted(one_hot(0), 9), shifted(one_hot(0), 2), one_hot(5)])
    assert ratio_matches(query, one_hot(0, 5), 0.8).tolist() == [[2, 1], [1, 0]]


@pytest.mark.parametrize(("query", "reference"), [(0, 3), (3, 0), (0, 0)])
def test_no_points_match_nothing(query: int, reference: int) -> None:
    assert ratio_matches(one_hot(*range(query)), one_hot(*range(reference)), 0.8).shape == (0, 2)


@settings(max_examples=50, deadline=None)
@given(few_bytes, few_bytes, st.floats(0.1, 1.0))
def test_ratio_matches_are_those_of_a_literal_loop(query: Bytes, reference: Bytes, ratio: float) -> None:
    distances = ((query[:, None].astype(np.int64) - reference[None].astype(np.int64)) ** 2).sum(axis=2)
    claims: dict[int, tuple[int, int]] = {}
    for number, row in enumerate(distances.tolist()):
        nearest = row.index(min(row))
        rest = row[:nearest] + row[nearest + 1 :]
        if not rest or row[nearest] < np.float32(ratio**2) * np.float32(min(rest)):
            claims[nearest] = min(claims.get(nearest, (row[nearest], number)), (row[nearest], number))
    expected = {(number, nearest) for nearest, (_, number) in claims.items()}
    assert {(int(q), int(r)) for q, r in ratio_matches(query, reference, ratio)} == expected


def test_imgfp_accepts_a_ratio_of_squares_under_one_over_1_8(points_of: MakePoints) -> None:
    reference = points_of(at((10, 10)), np.zeros((1, 128), np.uint8))
    for near, far, score in ((74, 100, 1), (75, 100, 0)):  # 74² · 1.8 = 9857 < 10,000 < 10,125 = 75² · 1.8
        query = points_of(at((20, 20), (60, 60)), np.concatenate([one_hot(0, height=near), one_hot(1, height=far)]))
        assert imgfp_score(query, reference)[0] == score


def test_imgfp_lets_a_lone_query_point_pass(points_of: MakePoints) -> None:
    query, reference = points_of(at((10, 10)), one_hot(0)), points_of(at((50, 50)), one_hot(90))
    assert imgfp_score(query, reference)[0] == 1


def test_imgfp_counts_one_match_per_rounded_reference_position(points_of: MakePoints) -> None:
    query = points_of(at((10, 10), (30, 30)), one_hot(0, 8))
    apart = points_of(at((50, 50), (70, 70)), one_hot(0, 8))
    together = points_of(at((50.2, 49.8), (49.8, 50.2)), one_hot(0, 8))
    assert imgfp_score(query, apart) == (2, False)
    assert imgfp_score(query, together)[0] == 1


def test_imgfp_counts_one_match_per_rounded_query_position(points_of: MakePoints) -> None:
    query = points_of(at((10.2, 9.8), (9.8, 10.2)), one_hot(0, 8))
    reference = points_of(at((50, 50), (70, 70)), one_hot(0, 8))
    assert imgfp_score(query, reference)[0] == 1


@pytest.mark.parametrize(("distance", "score"), [(5, 2), (7, 2), (9, 1)])
def test_imgfp_replaces_a_match_by_one_that_is_not_farther(points_of: MakePoints, distance: int, score: int) -> None:
    # The first match takes reference place A and query place 1, at distance 7. The second wants query place 1 from
    # reference place B: where it replaces the first, A is free again, and the third, from A to query place 2, counts.
    query = points_of(at((10, 10), (10, 10), (30, 30)), one_hot(0, 8, 16))
    reference = points_of(
        at((50, 50), (70, 70), (50, 50)),
        np.concatenate([shifted(one_hot(0), 7), shifted(one_hot(8), distance), shifted(one_hot(16), 8)]),
    )
    assert imgfp_score(query, reference)[0] == score


def test_imgfp_takes_the_better_of_plain_and_mirrored(
    points_of: MakePoints, random_descriptors: Callable[[int, int], Bytes]
) -> None:
    places = at(*((7.0 * n, 3.0 * n) for n in range(12)))
    descriptors = random_descriptors(12, 0)
    query, mirrored = points_of(places, descriptors), points_of(places, descriptors[:, MIRRORED_ORDER])
    assert imgfp_score(query, query) == (12, False)
    assert imgfp_score(query, mirrored) == (12, True)


def test_imgfp_scores_nothing_without_points(points_of: MakePoints) -> None:
    some, none = points_of(at((10, 10)), one_hot(0)), points_of([], np.zeros((0, 128), np.uint8))
    assert imgfp_score(some, none) == imgfp_score(none, some) == imgfp_score(none, none) == (0, False)


@settings(max_examples=30, deadline=None)
@given(few_bytes, few_bytes, st.integers(0, 9))
def test_imgfp_never_counts_more_than_there_are_places(
    points_of: MakePoints, query: Bytes, reference: Bytes, seed: int
) -> None:
    random = np.random.default_rng(seed)
    sides = [points_of(np.rint(random.random((len(d), 4)) * 3), d) for d in (query, reference)]
    places = [len({*zip(side.x.tolist(), side.y.tolist(), strict=True)}) for side in sides]
    assert imgfp_score(*sides)[0] <= min(places)


def test_a_published_copy_scores_high_and_an_unrelated_photo_low(disc21: Path, imgfp_points: PointSettings) -> None:
    copy, original, other = (
        find_points(decode_image(str(disc21 / f"{name}.jpg")).pixels, imgfp_points)
        for name in ("Q10893", "R751771", "Q24789")
    )
    assert imgfp_score(copy, original)[0] > 100
    assert imgfp_score(other, original)[0] < 8
    assert imgfp_score(other, copy)[0] < 8
