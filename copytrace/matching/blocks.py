"""Arithmetic of pictures by square blocks: their means and deviations, and how blocks of two pictures correlate."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.features.points import Bytes

SMOOTHING = 0.7  # pixels (sigma), so that the filter of a resize matters less
NOISE = 4.0  # gray levels: standard deviation of a block that is as much noise as ink


def to_gray(pixels: Bytes) -> Floats:
    """Return a picture uint8 RGB [H, W, 3] in gray, slightly blurred, as float32 [H, W] of 0 to 255."""
    return blur(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.float32), SMOOTHING)


def block_means(values: NDArray[Any], block: int) -> Floats:
    """Return the means of blocks, float32 [H // block, W // block]; what is left at the right and below is cut off."""
    rows, columns = values.shape[0] // block, values.shape[1] // block
    whole = values[: rows * block, : columns * block]
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


def block_deviation(gray: Floats, block: int) -> Floats:
    """Return the standard deviation within each block of a picture [H, W], float32 [H // block, W // block]."""
    return np.asarray(np.sqrt(np.maximum(block_means(gray**2, block) - block_means(gray, block) ** 2, 0)), np.float32)


def split_blocks(pixels: NDArray[Any], block: int) -> NDArray[Any]:
    """Return pixels [H, W, …] as blocks [H // block, W // block, pixels, …]; the rest is cut off."""
    rows, columns, channels = pixels.shape[0] // block, pixels.shape[1] // block, pixels.shape[2:]
    whole = pixels[: rows * block, : columns * block].reshape(rows, block, columns, block, *channels)
    return whole.swapaxes(1, 2).reshape(rows, columns, block**2, *channels)


def correlate_blocks(first: Floats, second: Floats, block: int, reach: int) -> tuple[Floats, Floats, Floats]:
    """Return, of each block of `first`, the greatest correlation with `second`, its deviation, and the displacement.

    The displacements float32 [rows, columns, 2], x and y in pixels, are at most `reach`.
    """
    mean, deviation = block_means(first, block), block_deviation(first, block)
    padded = cv2.copyMakeBorder(second, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    squares = padded**2
    best, moved = np.full(mean.shape, -1, np.float32), np.zeros((*mean.shape, 2), np.float32)
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            window = np.s_[y : y + first.shape[0], x : x + first.shape[1]]
            other = block_means(padded[window], block)
            spread = np.sqrt(np.maximum(block_means(squares[window], block) - other**2, 0))
            product = block_means(first * padded[window], block) - mean * other
            correlation = product / (deviation * spread + NOISE)
            better = correlation > best
            best[better], moved[better] = correlation[better], (x - reach, y - reach)
    return best, deviation, moved


def blur(gray: Floats, sigma: float) -> Floats:
    """Return a picture [H, W] blurred by a Gaussian of `sigma` pixels; as it is if that is 0."""
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), sigma), np.float32) if sigma else gray
