from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.features.thumbnails import (
    BYTES,
    LUMA,
    thumbnail,
    thumbnail_contrast,
    thumbnail_difference,
    thumbnail_keys,
)

Pixels = NDArray[np.uint8]


def encoded_again(pixels: Pixels, quality: int, scale: float) -> Pixels:
    smaller = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    coded = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def maze(seed: int) -> Pixels:
    """Return walls on a grid: mazes of two seeds differ only in which walls there are."""
    pixels = np.full((300, 360, 3), 240, np.uint8)
    for x, y, is_down in np.random.default_rng(seed).integers((0, 0, 0), (12, 10, 2), (80, 3)).tolist():
        end = (30 * x, 30 * (y + 1)) if is_down else (30 * (x + 1), 30 * y)
        cv2.line(pixels, (30 * x, 30 * y), end, (40, 20, 60), 4)
    return pixels


@pytest.mark.parametrize(("quality", "scale"), [(90, 0.9), (60, 0.5), (30, 0.7)])
def test_a_copy_that_was_encoded_again_differs_by_little_and_another_maze_by_much(quality: int, scale: float) -> None:
    first, other = thumbnail(maze(1)), thumbnail(maze(2))
    assert thumbnail_difference(first, thumbnail(encoded_again(maze(1), quality, scale))) < 4
    assert thumbnail_difference(first, other) > 20
    assert thumbnail_difference(other, first) == thumbnail_difference(first, other)


def test_plain_pictures_differ_by_their_gray_levels() -> None:
    first, other = (thumbnail(np.full((40, 60, 3), gray, np.uint8)) for gray in (100, 105))
    assert thumbnail_difference(first, other) == 5
    assert thumbnail_contrast(first) == 0


def test_colors_of_the_same_luma_differ() -> None:
    red, green = (thumbnail(np.full((30, 30, 3), color, np.uint8)) for color in ((200, 0, 0), (0, 102, 0)))
    assert (red[:LUMA] == green[:LUMA]).all()
    assert thumbnail_difference(red, green) > 50


def test_a_thumbnail_shows_any_size_and_aspect() -> None:
    assert thumbnail(np.zeros((1, 900, 3), np.uint8)).shape == (BYTES,)
    with pytest.raises(InputError, match="uint8"):
        thumbnail(np.zeros((5, 5), np.uint8))


@given(st.integers(0, 1 << 32), st.integers(0, 30))
def test_keys_differ_by_no_more_than_thumbnails(seed: int, noise: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, BYTES)
    second = np.clip(first + rng.integers(-noise, noise + 1, BYTES), 0, 255)
    keys = thumbnail_keys(np.stack([first, second]).astype(np.uint8)).astype(int)
    assert np.abs(keys[0] - keys[1]).max() <= np.abs(first - second).max()
