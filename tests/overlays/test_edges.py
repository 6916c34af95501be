from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.data import chelsea, coffee

from copytrace.errors import InputError
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import EdgeOverlayDetector

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 320, 240
MIDDLE = (60, 50, 200, 170)


@pytest.fixture(scope="module")
def host() -> Pixels:
    """A photo to paste upon, uint8 [240, 320, 3]."""
    return cv2.resize(coffee(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def paste(host: Pixels, corners: tuple[int, int, int, int], *, opacity: float = 1.0) -> tuple[Pixels, Box]:
    """`host` with a cat between the pixels `corners` (x0, y0, x1, y1), and the box where it lies."""
    x0, y0, x1, y1 = corners
    cat = cv2.resize(chelsea(), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    picture = host.copy()
    picture[y0:y1, x0:x1] = np.rint(opacity * cat + (1 - opacity) * host[y0:y1, x0:x1])
    return picture, Box(x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT, 1.0)


def best_overlap(boxes: list[Box], truth: Box, first: int = 3) -> float:
    return max((box.iou(truth) for box in boxes[:first]), default=0.0)


@pytest.mark.parametrize(
    "corners",
    [MIDDLE, (0, 60, 120, 150), (200, 150, 320, 240), (140, 20, 182, 52)],
    ids=["in the middle", "at a border", "in a corner", "an eighth of the width"],
)
def test_a_pasted_photo_is_the_best_box(host: Pixels, corners: tuple[int, int, int, int]) -> None:
    picture, truth = paste(host, corners)
    assert best_overlap(EdgeOverlayDetector().detect(picture), truth, first=1) > 0.9


def test_a_half_transparent_photo_is_among_the_first_three(host: Pixels) -> None:
    picture, truth = paste(host, MIDDLE, opacity=0.5)
    assert best_overlap(EdgeOverlayDetector().detect(picture), truth) > 0.9


def test_a_blurred_query_keeps_its_pasted_photo(host: Pixels) -> None:
    picture, truth = paste(host, MIDDLE)
    assert best_overlap(EdgeOverlayDetector().detect(cv2.GaussianBlur(picture, (0, 0), 1.5)), truth) > 0.9


def test_a_noisy_query_keeps_its_pasted_photo(host: Pixels) -> None:
    picture, truth = paste(host, MIDDLE)
    noise = np.random.default_rng(5).normal(0, 20, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
    assert best_overlap(EdgeOverlayDetector().detect(noisy), truth) > 0.9


def test_a_low_contrast_query_keeps_its_pasted_photo(host: Pixels) -> None:
    picture, truth = paste(host, MIDDLE)
    assert best_overlap(EdgeOverlayDetector().detect((picture // 5 + 100).astype(np.uint8)), truth) > 0.9


def test_a_large_query_is_searched_as_well_as_a_small_one(host: Pixels) -> None:
    picture, truth = paste(host, MIDDLE)
    large = cv2.resize(picture, (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    assert best_overlap(EdgeOverlayDetector().detect(large), truth) > 0.9


@pytest.mark.parametrize("margins", [(30, 30, 30, 30), (60, 60, 0, 0), (0, 0, 50, 50), (80, 0, 0, 0)])
def test_a_photo_within_a_uniform_frame_is_found(host: Pixels, margins: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = margins
    framed = cv2.copyMakeBorder(host, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    height, width = framed.shape[:2]
    truth = Box(left / width, top / height, 1 - right / width, 1 - bottom / height, 1.0)
    assert best_overlap(EdgeOverlayDetector().detect(framed), truth) > 0.9


def test_a_photo_pasted_inside_a_framed_photo_is_found_beside_the_frame(host: Pixels) -> None:
    picture, _ = paste(host, MIDDLE)
    framed = cv2.copyMakeBorder(picture, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    height, width = framed.shape[:2]
    inner = Box(100 / width, 90 / height, 240 / width, 210 / height, 1.0)
    frame = Box(40 / width, 40 / height, 1 - 40 / width, 1 - 40 / height, 1.0)
    boxes = EdgeOverlayDetector().detect(framed)
    assert best_overlap(boxes, inner) > 0.9
    assert best_overlap(boxes, frame) > 0.9


def test_a_plain_panel_is_no_picture() -> None:
    page = np.full((240, 320, 3), 240, np.uint8)
    page[60:140, 90:200] = (60, 90, 160)
    assert EdgeOverlayDetector().detect(page) == []


def test_a_plain_photo_has_no_confident_box(host: Pixels) -> None:
    assert all(box.confidence < 0.5 for box in EdgeOverlayDetector().detect(host))


@pytest.mark.parametrize("shape", [(240, 320), (8, 8), (1, 400), (400, 1), (1, 1), (12, 12), (13, 3000), (3000, 13)])
def test_a_uniform_picture_has_no_box_at_any_shape(shape: tuple[int, int]) -> None:
    assert EdgeOverlayDetector().detect(np.full((*shape, 3), 77, np.uint8)) == []


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99), fine=st.booleans())
def test_boxes_lie_inside_the_picture_and_are_sorted(height: int, width: int, seed: int, fine: bool) -> None:
    coarse = (height, width) if fine else (max(1, height // 12), max(1, width // 12))
    pixels = np.random.default_rng(seed).integers(0, 256, (*coarse, 3), dtype=np.uint8)
    blocks = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
    boxes = EdgeOverlayDetector().detect(blocks)
    assert len(boxes) <= 10
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 and 0 <= box.confidence <= 1 for box in boxes)
    assert [box.confidence for box in boxes] == sorted((box.confidence for box in boxes), reverse=True)


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3), (20, 5000), (5000, 20)])
def test_extreme_shapes_with_noise_give_valid_boxes(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    boxes = EdgeOverlayDetector().detect(noise)
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


def test_the_same_pixels_give_the_same_boxes(host: Pixels) -> None:
    picture, _ = paste(host, MIDDLE)
    assert EdgeOverlayDetector().detect(picture) == EdgeOverlayDetector().detect(picture.copy())


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
    ids=["grey", "with alpha", "float", "empty"],
)
def test_pixels_that_are_not_rgb_bytes_are_refused(pixels: Pixels) -> None:
    with pytest.raises(InputError, match="give uint8"):
        EdgeOverlayDetector().detect(pixels)
