"""The ground under transparent pictures: white, unless what is drawn could not be seen on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WHITE, BLACK, GRAY = 255, 0, 128
GROUNDS = (WHITE, BLACK, GRAY)

_SAMPLE_SIDE = 512  # pixels of the longer side that are looked at
_LEAST_STEP = 24  # of 255 levels; a smaller difference between neighbors is no visible edge
_SEEN = 0.7  # share of the edges that must be visible on white
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def choose_ground(pixels: npt.NDArray[np.uint8]) -> int:
    """Return the gray level on which to lay a picture, uint8 RGBA [H, W, 4]: white, or else black or gray.

    Browsers and editors show transparent pictures on white. White art vanishes on it: then the ground is the one of
    black and gray on which most edges are visible.
    """
    step = max(1, max(pixels.shape[:2]) // _SAMPLE_SIDE)
    sample = pixels[::step, ::step]
    if sample[..., 3].min(initial=255) == 255:
        return WHITE
    opacity = sample[..., 3] / np.float32(255)
    luma = sample[..., :3] @ _LUMA
    visible = [_count_edges(luma * opacity + ground * (1 - opacity)) for ground in GROUNDS]
    best = int(np.argmax(visible))
    return WHITE if visible[0] >= _SEEN * visible[best] else GROUNDS[best]


def lay_on_ground(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a picture, uint8 RGBA [H, W, 4], as RGB [H, W, 3] on the ground that `choose_ground` returns."""
    opacity = pixels[..., 3:] / np.float32(255)
    ground = choose_ground(pixels)
    return np.rint(pixels[..., :3] * opacity + ground * (1 - opacity)).astype(np.uint8)


def _count_edges(luma: npt.NDArray[np.floating]) -> int:
    across = np.abs(np.diff(luma, axis=1)) >= _LEAST_STEP
    down = np.abs(np.diff(luma, axis=0)) >= _LEAST_STEP
    return int(np.count_nonzero(across)) + int(np.count_nonzero(down))
