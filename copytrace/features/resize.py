"""Resizing of pictures to the square input of a descriptor."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copytrace.errors import InputError
from models.configs import Interpolation


def resize_for_descriptor(
    pixels: NDArray[np.uint8], input_size: int, interpolation: Interpolation = "area"
) -> NDArray[np.uint8]:
    """Resize uint8 [H, W, 3] to uint8 [S, S, 3], regardless of its aspect.

    "area" averages where sides shrink, and is cubic where they grow. "bicubic" is Pillow's, which widens its kernel as
    sides shrink: what torchvision's `Resize` computes of a Pillow image, by which most published networks were trained.
    Raises `InputError` for another shape or type, or for an empty picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise InputError(
            f"a picture must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}; convert it to RGB"
        )
    if interpolation == "bicubic":
        return np.array(Image.fromarray(pixels).resize((input_size, input_size), Image.Resampling.BICUBIC))
    height, width = pixels.shape[:2]
    # cv2's area mode samples points, and so aliases, as soon as either side grows: first shrink, then enlarge.
    resized = cv2.resize(pixels, (min(width, input_size), min(height, input_size)), interpolation=cv2.INTER_AREA)
    if min(height, width) < input_size:
        resized = cv2.resize(resized, (input_size, input_size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


class SquareInput:
    """Base class of descriptors that take one square picture of `input_size` pixels, made by `interpolation`."""

    input_size: int
    interpolation: Interpolation = "area"

    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture uint8 [H, W, 3] as `describe` takes it, uint8 [S, S, 3].

        Raises as `resize_for_descriptor` does.
        """
        return resize_for_descriptor(pixels, self.input_size, self.interpolation)
