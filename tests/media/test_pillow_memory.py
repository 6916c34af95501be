"""The pixels that Pillow lends are those that it gives."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from copytrace.media.pillow_memory import pixels_of_rgb


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (640, 481), (5000, 3001)])
def test_the_pixels_are_those_of_the_image_and_outlive_it(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(random)
    pixels = pixels_of_rgb(image)
    del image
    Image.new("RGB", size, (9, 9, 9))
    assert pixels.shape == (size[1], size[0], 3)
    assert np.array_equal(pixels, random)


def test_an_image_that_was_not_loaded_is_loaded(tmp_path) -> None:
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert pixels_of_rgb(image)[29, 39].tolist() == [1, 2, 3]


def test_memory_is_given_back() -> None:
    image = Image.new("RGB", (200, 100))
    before = [pixels_of_rgb(image) for _ in range(3)]
    capsules = image.__arrow_c_array__()
    del capsules
    assert all(np.array_equal(each, before[0]) for each in before)
    image.putpixel((0, 0), (5, 6, 7))  # Pillow refuses that while an image is lent
    assert pixels_of_rgb(image)[0, 0].tolist() == [5, 6, 7]
