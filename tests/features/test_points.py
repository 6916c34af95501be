from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from configs.images import PointSettings, VerificationSettings
from copytrace.features.points import MIRRORED_ORDER, NEGATIVE_ORDER, Points, find_points, root_sift
from copytrace.features.variants import VARIANTS
from copytrace.matching.verification import verify
from copytrace.media.decode import decode_image
from copytrace.synthesis.drawn_set import PICTURE_KINDS

Pixels = NDArray[np.uint8]
ALL_POINTS = PointSettings(
    short_side=200, enlarge=False, max_points=0, levels=3, contrast=0.02, edge=10, first_octave=-1
)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sift_lines(path: Path) -> Points:
    rows = [re.split(r"_|\|\|", line, maxsplit=6) for line in path.read_text().splitlines()]
    x, y, scale, angle = np.array([row[2:6] for row in rows], np.float32).T
    descriptor = np.array([[int(number) for number in row[6].split(",")] for row in rows], np.uint8)
    return Points(x, y, scale, angle, descriptor, 299, 501)


def partners(ours: Points, theirs: Points, order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each of our points the nearest of theirs, read in `order`, and the squared distance."""
    mine, yours = ours.descriptor.astype(float), theirs.descriptor[:, order].astype(float)
    distances = ((mine[:, None] - yours[None]) ** 2).sum(axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def turned(radians: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.abs((radians + np.pi) % (2 * np.pi) - np.pi)


def test_squares_of_a_root_sift_descriptor_sum_to_255_squared(photos: dict[str, Pixels]) -> None:
    sums = (find_points(photos["coffee"], ALL_POINTS).descriptor.astype(float) ** 2).sum(axis=1)
    assert len(sums) > 100
    np.testing.assert_allclose(sums / 255**2, 1, atol=0.03)


def test_a_view_with_too_few_points_gets_none(photos: dict[str, Pixels]) -> None:
    count = len(find_points(photos["coffee"], ALL_POINTS))
    assert len(find_points(photos["coffee"], ALL_POINTS.model_copy(update={"min_points": count}))) == count
    assert len(find_points(photos["coffee"], ALL_POINTS.model_copy(update={"min_points": count + 1}))) == 0


def test_a_view_may_be_reduced_by_pillows_bicubic_filter(photos: dict[str, Pixels]) -> None:
    bicubic = ALL_POINTS.model_copy(update={"interpolation": "bicubic"})
    found = find_points(photos["coffee"], bicubic)
    gray = Image.fromarray(cv2.cvtColor(photos["coffee"], cv2.COLOR_RGB2GRAY))
    small = np.array(gray.resize((found.width, found.height), Image.Resampling.BICUBIC))
    expected = find_points(np.repeat(small[..., None], 3, axis=2), ALL_POINTS)
    np.testing.assert_array_equal(found.descriptor, expected.descriptor)
    assert len(found) != len(find_points(photos["coffee"], ALL_POINTS))


def test_root_sift_is_the_rounded_root_of_each_share() -> None:
    raw = np.zeros((1, 128), np.float32)
    raw[0, :3] = 100, 200, 100
    # √¼ · 255 = 127.5 and √½ · 255 = 180.3
    assert root_sift(raw)[0, :4].tolist() == [128, 180, 128, 0]


def test_root_sift_of_nothing_is_nothing() -> None:
    assert root_sift(np.zeros((1, 128), np.float32)).tolist() == [[0] * 128]
    assert root_sift(np.zeros((0, 128), np.float32)).shape == (0, 128)


@given(arrays(np.float32, (3, 128), elements=st.integers(0, 255).map(float)))
def test_root_sift_has_the_length_of_255_whatever_the_counts(raw: NDArray[np.float32]) -> None:
    lengths = np.linalg.norm(root_sift(raw).astype(float), axis=1)
    expected = np.where(raw.sum(axis=1) > 0, 255, 0)
    np.testing.assert_allclose(lengths, expected, atol=6)  # 128 roundings of at most a half


def test_points_do_not_depend_on_the_number_of_threads(photos: dict[str, Pixels]) -> None:
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            found.append(find_points(photos["astronaut"], ALL_POINTS))
    finally:
        cv2.setNumThreads(before)
    for other in found[1:]:
        for name in ("x", "y", "scale", "angle", "descriptor"):
            np.testing.assert_array_equal(getattr(found[0], name), getattr(other, name))


@pytest.mark.parametrize("first_octave", [-1, 0])
def test_max_points_keeps_the_first_of_all_points(photos: dict[str, Pixels], first_octave: int) -> None:
    settings = ALL_POINTS.model_copy(update={"first_octave": first_octave})
    every = find_points(photos["coffee"], settings)
    few = find_points(photos["coffee"], settings.model_copy(update={"max_points": 60}))
    assert len(every) > 60
    np.testing.assert_array_equal(few.x, every.x[:60])
    np.testing.assert_array_equal(few.descriptor, every.descriptor[:60])


def test_without_the_upsampled_octave_no_small_points_are_found(photos: dict[str, Pixels]) -> None:
    every = find_points(photos["coffee"], ALL_POINTS)
    coarse = find_points(photos["coffee"], ALL_POINTS.model_copy(update={"first_octave": 0}))
    # The first octave at the size itself begins at σ = 1.6.
    assert every.scale.min() < 1.6 <= coarse.scale.min()
    assert {*zip(coarse.x, coarse.y, strict=True)} < {*zip(every.x, every.y, strict=True)}


@pytest.mark.parametrize(
    ("height", "width", "enlarge", "expected"),
    [
        (600, 900, False, (299, 449)),  # imgFp: 300 / (shorter + 1e-5), cut down
        (1016, 608, False, (501, 299)),
        (100, 200, False, (100, 200)),
        (100, 200, True, (299, 599)),
        (299, 400, False, (299, 400)),
    ],
)
def test_the_short_side_becomes_the_one_asked_for_less_a_pixel(
    height: int, width: int, enlarge: bool, expected: tuple[int, int]
) -> None:
    points = find_points(noise(height, width), PointSettings(short_side=300, enlarge=enlarge, max_points=1))
    assert (points.height, points.width) == expected


@pytest.mark.parametrize(("stretch", "expected"), [(4.0, (99, 399)), (0.25, (399, 99))])
def test_stretching_widens_by_the_factor_and_keeps_the_area(stretch: float, expected: tuple[int, int]) -> None:
    settings = PointSettings(short_side=200, max_points=1)
    points = find_points(noise(400, 400), settings, stretch=stretch)
    assert (points.height, points.width) == expected


def test_points_of_a_stretched_view_lie_where_they_do_in_the_image() -> None:
    pixels = np.full((200, 200, 3), 128, np.uint8)
    cv2.circle(pixels, (150, 50), 12, (255, 255, 255), -1)
    cv2.GaussianBlur(pixels, (0, 0), 2, dst=pixels)
    # Squeezed to half its width the disc is an ellipse; the view widened by 2 shows it round again.
    squeezed = np.asarray(cv2.resize(pixels, (100, 200), interpolation=cv2.INTER_AREA))
    settings = PointSettings(short_side=150, max_points=0, levels=3, contrast=0.02)
    points = find_points(squeezed, settings, stretch=2.0)
    assert len(points) > 0
    strongest = points.image_positions()[0]
    np.testing.assert_allclose(strongest, (0.75, 0.25), atol=0.02)


def test_points_of_a_box_are_told_in_shares_of_the_whole_image() -> None:
    points = Points(
        *(np.array([number], np.float32) for number in (50, 25, 2, 0)), np.zeros((1, 128), np.uint8), 100, 50,
        box=(0.5, 0.0, 1.0, 0.5),
    )  # fmt: skip
    assert points.image_positions().tolist() == [[0.75, 0.25]]
    assert points.relative_geometry().tolist() == [[1.0, 0.5, pytest.approx(0.04), 0.0]]


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (3, 500), (8, 5000), (5000, 8)])
@pytest.mark.parametrize("stretch", [1.0, 2.0, 0.5])
def test_tiny_and_narrow_pictures_give_points_without_error(shape: tuple[int, int], stretch: float) -> None:
    points = find_points(noise(*shape), PointSettings(short_side=100, max_points=50), stretch=stretch)
    assert len(points) <= 50
    assert points.descriptor.shape == (len(points), 128)
    assert points.width * points.height <= 16 * 100**2 * 1.1


@pytest.mark.parametrize("enlarge", [True, False])
def test_a_uniform_picture_has_no_points(enlarge: bool) -> None:
    points = find_points(np.full((300, 200, 3), 77, np.uint8), PointSettings(short_side=100, enlarge=enlarge))
    assert len(points) == 0
    assert points.descriptor.shape == (0, 128)
    assert points.image_positions().shape == (0, 2)


@pytest.mark.parametrize("order", [MIRRORED_ORDER, NEGATIVE_ORDER])
def test_orders_undo_themselves(order: NDArray[np.int64]) -> None:
    assert order[order].tolist() == list(range(128))
    assert order.tolist() != list(range(128))


def test_points_of_a_mirrored_photo_match_through_the_mirrored_order(photos: dict[str, Pixels]) -> None:
    ours = find_points(photos["coffee"], ALL_POINTS)
    theirs = find_points(np.ascontiguousarray(photos["coffee"][:, ::-1]), ALL_POINTS)
    partner, distance = partners(ours, theirs, MIRRORED_ORDER)
    same_angle = turned(theirs.angle[partner] - (np.pi - ours.angle)) < 0.05
    same_place = np.hypot(theirs.x[partner] - (ours.width - 1 - ours.x), theirs.y[partner] - ours.y) < 1
    assert np.mean((distance < 2000) & same_angle & same_place) > 0.8
    assert np.mean(partners(ours, theirs, np.arange(128))[1] < 2000) < 0.1


def test_points_of_a_negative_match_through_the_negative_order(photos: dict[str, Pixels]) -> None:
    ours, theirs = find_points(photos["coffee"], ALL_POINTS), find_points(255 - photos["coffee"], ALL_POINTS)
    partner, distance = partners(ours, theirs, NEGATIVE_ORDER)
    same_angle = turned(theirs.angle[partner] - ours.angle - np.pi) < 0.05
    same_place = np.hypot(theirs.x[partner] - ours.x, theirs.y[partner] - ours.y) < 1
    assert np.mean((distance < 2000) & same_angle & same_place) > 0.9
    assert np.mean(partners(ours, theirs, np.arange(128))[1] < 2000) < 0.1


def test_most_of_the_points_that_imgfp_published_are_found(disc21: Path, imgfp_points: PointSettings) -> None:
    published = sift_lines(disc21 / "Q24789.sift.txt")
    assert len(published) == 661
    points = find_points(decode_image(str(disc21 / "Q24789.jpg")).pixels, imgfp_points)
    apart = np.hypot(published.x[:, None] - points.x[None], published.y[:, None] - points.y[None])
    assert np.mean(apart.min(axis=1) < 1) >= 0.69  # 0.699; by area, 0.710


def test_half_of_the_points_are_the_strongest_and_half_the_largest(photos: dict[str, Pixels]) -> None:
    def kept(selection: str, count: int) -> set[tuple[float, float, float, float]]:
        settings = ALL_POINTS.model_copy(update={"max_points": count, "selection": selection})
        points = find_points(photos["coffee"], settings)
        return {*zip(points.x, points.y, points.scale, points.angle, strict=True)}

    mixed, every = kept("mixed", 60), find_points(photos["coffee"], ALL_POINTS)
    assert kept("strongest", 30) <= mixed
    largest = np.sort(every.scale)[::-1]
    assert sum(scale >= largest[29] for _, _, scale, _ in mixed) >= 30
    assert len(mixed) == 60


def test_points_of_a_full_page_are_found_again_in_a_part_of_it() -> None:
    page = PICTURE_KINDS["page"](np.random.default_rng(2))(np.random.default_rng(3)).convert("RGB")
    part = page.crop((0, 0, round(page.width * 0.75), round(page.height * 0.75)))

    def inliers(selection: Literal["mixed", "strongest"]) -> int:
        reference = PointSettings(selection=selection)
        query = PointSettings(short_side=400, max_points=1000, contrast=0.01, selection=selection)
        views = find_points(np.asarray(part), query), find_points(np.asarray(page), reference)
        return verify(*views, VARIANTS[0], VerificationSettings()).inliers

    assert inliers("mixed") > 2 * inliers("strongest")
