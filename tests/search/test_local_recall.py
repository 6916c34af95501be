from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import LocalSettings
from copytrace.features.points import MIRRORED_ORDER, NEGATIVE_ORDER
from copytrace.features.variants import VARIANTS
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.shard_files import View
from copytrace.search.local_recall import (
    LocalCandidate,
    accept_votes,
    enabled_variants,
    exclude_none,
    hough_votes,
    nearest_references,
    recall_by_hough,
)
from copytrace.search.point_search import ExactSearch, PointSearch

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
MakeView = Callable[..., View]
Descriptors = Callable[[int, int], Bytes]
HOUGH = LocalSettings(
    rule="hough", neighbours=4, references_per_query=10, mirrored=True, negative=True, exact=True, stretches=()
)
VOTE = LocalSettings(
    rule="vote", neighbours=4, min_votes=3, min_votes_alone=5, max_mean_distance=8000, exact=True, stretches=()
)


def scattered(count: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    columns = [random.uniform(5, 95, count), random.uniform(5, 95, count), random.uniform(2, 6, count)]
    return np.stack([*columns, random.uniform(-3, 3, count)], axis=1).astype(np.float32)


def turned(keypoints: Floats, degrees: float, scale: float, dx: float, dy: float) -> Floats:
    angle = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = keypoints[:, :2] @ rotation.T + [dx, dy]
    return np.column_stack([places, keypoints[:, 2] * scale, keypoints[:, 3] + angle]).astype(np.float32)


def mirrored(keypoints: Floats) -> Floats:
    return (keypoints * [-1, 1, 1, -1] + [100, 0, 0, np.pi]).astype(np.float32)


def index_of(*views: View) -> PointSearch:
    return ExactSearch.of(views, shipped_quantizer())


@pytest.fixture
def references(view_of: MakeView, random_descriptors: Descriptors) -> list[View]:
    return [view_of(name, scattered(60, n), random_descriptors(60, n)) for n, name in enumerate("abc")]


def test_votes_that_agree_beat_more_that_do_not(view_of: MakeView, references: list[View]) -> None:
    a, b = references[0], references[1]
    right = turned(scattered(60, 0)[:14], 35, 0.6, 30, 10)
    stray = scattered(40, 77)
    query = view_of(
        "q", np.concatenate([right, stray]), np.concatenate([a.points.descriptor[:14], b.points.descriptor[:40]])
    )
    found = {c.reference_id: c.votes for c in recall_by_hough([query], index_of(*references), HOUGH)}
    assert max(found, key=lambda name: found[name]) == "a"
    assert found["a"] >= 14
    assert found["b"] < 14


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (90, 1), (180, 0.3), (-100, 2.2), (359, 0.11)])
def test_all_votes_of_a_turned_and_scaled_copy_agree(
    view_of: MakeView, references: list[View], degrees: float, scale: float
) -> None:
    query = view_of("q", turned(scattered(60, 1), degrees, scale, 12, -7), references[1].points.descriptor)
    (best, *_) = recall_by_hough([query], index_of(*references), HOUGH)
    assert (best.reference_id, best.view, best.variant) == ("b", "whole", 0)
    assert best.votes >= 60


def test_a_query_point_votes_once_for_a_reference_with_repeated_points(
    view_of: MakeView, random_descriptors: Descriptors
) -> None:
    one = random_descriptors(1, 0)
    repeated = view_of("tiles", [[10.0 + n / 10, 50, 3, 0] for n in range(5)], one.repeat(5, axis=0))
    other = view_of("other", scattered(40, 3), random_descriptors(40, 3))
    query = view_of("q", [[10, 50, 3, 0]], one)
    found = {c.reference_id: c.votes for c in recall_by_hough([query], index_of(repeated, other), HOUGH)}
    assert found["tiles"] == pytest.approx(1, abs=1e-3)


def test_a_query_point_votes_for_every_reference_that_has_it(view_of: MakeView, references: list[View]) -> None:
    twin = view_of("twin", scattered(60, 0), references[0].points.descriptor)
    query = view_of("q", scattered(60, 0), references[0].points.descriptor)
    found = {c.reference_id: c.votes for c in recall_by_hough([query], index_of(*references, twin), HOUGH)}
    assert found["a"] == pytest.approx(60, abs=1)
    assert found["twin"] == pytest.approx(60, abs=1)


@pytest.mark.parametrize("variant", [1, 2, 3])
def test_mirrored_and_negative_copies_are_found_only_when_asked_for(
    view_of: MakeView, references: list[View], variant: int
) -> None:
    keypoints, descriptors = scattered(60, 2), references[2].points.descriptor
    if VARIANTS[variant].mirrored:
        keypoints, descriptors = mirrored(keypoints), descriptors[:, MIRRORED_ORDER]
    if VARIANTS[variant].negative:
        keypoints, descriptors = keypoints + np.float32([0, 0, 0, np.pi]), descriptors[:, NEGATIVE_ORDER]
    query, index = view_of("q", keypoints, descriptors), index_of(*references)
    (best, *_) = recall_by_hough([query], index, HOUGH)
    assert (best.reference_id, best.variant) == ("c", variant)
    assert best.votes >= 60
    plain = HOUGH.model_copy(update={"mirrored": False, "negative": False})
    assert all(c.variant == 0 and c.votes < 15 for c in recall_by_hough([query], index, plain))


@pytest.mark.parametrize(
    ("mirrored", "negative", "numbers"),
    [(False, False, [0]), (True, False, [0, 1]), (False, True, [0, 2]), (True, True, [0, 1, 2, 3])],
)
def test_variants_are_those_asked_for(mirrored: bool, negative: bool, numbers: list[int]) -> None:
    settings = HOUGH.model_copy(update={"mirrored": mirrored, "negative": negative})
    assert [variant.number for variant in enabled_variants(settings)] == numbers


def test_reading_a_variant_twice_gives_the_points_back(random_descriptors: Descriptors) -> None:
    geometry, descriptors = scattered(5, 0), random_descriptors(5, 0)
    for variant in VARIANTS:
        again, same = variant.read(*variant.read(geometry, descriptors))
        np.testing.assert_array_equal(same, descriptors)
        np.testing.assert_allclose(again[:, :3], geometry[:, :3])
        np.testing.assert_allclose(np.cos(again[:, 3]), np.cos(geometry[:, 3]), atol=1e-5)
        np.testing.assert_allclose(np.sin(again[:, 3]), np.sin(geometry[:, 3]), atol=1e-5)


def test_the_view_with_the_most_votes_is_named(view_of: MakeView, references: list[View]) -> None:
    descriptors = references[0].points.descriptor
    few = view_of("q", scattered(60, 0)[:10], descriptors[:10])
    many = view_of("q", scattered(60, 0)[:40], descriptors[:40], name="stretched2")
    (best, *_) = recall_by_hough([few, many], index_of(*references), HOUGH)
    assert (best.reference_id, best.view) == ("a", "stretched2")


def test_references_that_are_not_allowed_are_left_out(view_of: MakeView, references: list[View]) -> None:
    query = view_of("q", scattered(60, 0), references[0].points.descriptor)
    found = recall_by_hough([query], index_of(*references), HOUGH, lambda image: image == "a")
    assert {c.reference_id for c in found} <= {"b", "c"}


def test_no_more_references_than_asked_for_are_returned(view_of: MakeView, references: list[View]) -> None:
    query = view_of("q", scattered(180, 0), np.concatenate([r.points.descriptor for r in references]))
    settings = HOUGH.model_copy(update={"references_per_query": 2})
    votes = [c.votes for c in recall_by_hough([query], index_of(*references), settings)]
    assert len(votes) == 2
    assert votes == sorted(votes, reverse=True)


def test_a_reference_with_few_points_is_found_on_its_own(view_of: MakeView, random_descriptors: Descriptors) -> None:
    descriptors = random_descriptors(3, 0)
    logo, query = (view_of(name, scattered(3, 0), descriptors) for name in ("logo", "q"))
    (found,) = recall_by_hough([query], index_of(logo), HOUGH)
    assert found.votes == pytest.approx(3, abs=1e-3)


def test_without_points_nothing_is_recalled(view_of: MakeView, references: list[View]) -> None:
    nothing = view_of("q", [], np.zeros((0, 128), np.uint8))
    for index in (index_of(), index_of(nothing), index_of(*references)):
        assert recall_by_hough([nothing], index, HOUGH) == recall_by_vote(nothing, index) == []
    assert recall_by_hough([references[0]], index_of(nothing), HOUGH) == []
    assert recall_by_vote(references[0], index_of(nothing)) == []
    assert len(hough_votes([references[0]], index_of(), HOUGH).votes) == 0


def recall_by_vote(
    view: View, index: PointSearch, is_itself: Callable[[str], bool] = exclude_none
) -> list[LocalCandidate]:
    return accept_votes(view, [nearest_references(view, index, VOTE, is_itself)], VOTE)


def query_for(view_of: MakeView, references: list[View], counts: tuple[int, ...], apart: int = 0) -> View:
    """Return a query with so many points of each reference, each `apart`² away from it, squared."""
    taken = [r.points.descriptor[:count] for r, count in zip(references, counts, strict=True)]
    descriptors = np.concatenate(taken)
    descriptors[:, 7] = np.minimum(descriptors[:, 7], 100) + apart
    return view_of("q", scattered(sum(counts), 50), descriptors)


@pytest.mark.parametrize(
    ("counts", "accepted"),
    [
        ((4, 3, 0), "a"),  # more than 3, and more than the second's
        ((3, 2, 0), None),
        ((4, 4, 0), None),
        ((4, 5, 1), "b"),
        ((4, 1, 1), "a"),
        ((6, 0, 0), "a"),  # alone: more than 5
        ((5, 0, 0), None),
        ((5, 1, 0), "a"),
    ],
)
def test_the_vote_rule_is_that_of_imgfp(
    view_of: MakeView, references: list[View], counts: tuple[int, ...], accepted: str | None
) -> None:
    found = recall_by_vote(query_for(view_of, references, counts), index_of(*references))
    expected = [LocalCandidate("q", accepted, max(counts), "whole", 0)] if accepted else []
    assert found == expected


@pytest.mark.parametrize(("apart", "accepted"), [(89, True), (90, False)])  # 89² < 8000 < 90²
def test_the_vote_rule_wants_a_small_mean_distance(
    view_of: MakeView, references: list[View], apart: int, accepted: bool
) -> None:
    query = query_for(view_of, references, (8, 0, 0), apart)
    found = recall_by_vote(query, index_of(*references))
    assert [c.reference_id for c in found] == (["a"] if accepted else [])


def test_the_vote_rule_passes_over_the_query_itself(view_of: MakeView, references: list[View]) -> None:
    copy = view_of("copy", scattered(60, 9), references[0].points.descriptor)
    index = index_of(*references, copy)
    found = recall_by_vote(references[0], index, lambda image: image == "a")
    assert [(c.reference_id, c.votes) for c in found] == [("copy", 60)]
