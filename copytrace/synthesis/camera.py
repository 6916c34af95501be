"""Drawn pictures as the camera of a phone takes them: uneven light, paper, grain, blur and a slight perspective."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from copytrace.arrays import Floats

DESK = (20, 120)  # gray levels of what lies around the page
MARGIN, TILT = (0.0, 0.04), 0.025  # around the page, and displacement of its corners, in shares of the sides
LIGHT, LIT = (0.45, 0.9), (0.8, 1.0)  # where the light is weakest and strongest, as shares of white
INK_LIGHT = (0.04, 0.25)  # of white: what black ink reflects
PAPER, GRAIN = (0.0, 0.03), (1.0, 5.0)  # share of white by which paper varies, and gray levels of noise (sigma)
BLUR = (0.3, 1.1)  # pixels (sigma), for a short side of 400


def photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a picture of any mode as a camera takes its print, RGB of the same size.

    What is transparent is white paper.
    """
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    pixels = np.asarray(paper.convert("RGB"), np.float32) / 255
    black = rng.uniform(*INK_LIGHT)
    printed = np.asarray(black + (1 - black) * pixels, np.float32)
    seen = _tilt(printed, rng) * _light(pixels.shape[:2], rng)[..., None]
    blurred = cv2.GaussianBlur(seen, (0, 0), rng.uniform(*BLUR) * max(1.0, min(seen.shape[:2]) / 400))
    noisy = 255 * blurred + rng.normal(0, rng.uniform(*GRAIN), blurred.shape)
    return Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))


def _tilt(page: Floats, rng: np.random.Generator) -> Floats:
    """Return the page on a desk, its corners a little displaced."""
    height, width = page.shape[:2]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    moved = 0.5 + (corners - 0.5) * (1 - 2 * rng.uniform(*MARGIN)) + rng.uniform(-TILT, TILT, (4, 2))
    sides = np.array([width, height], np.float32)
    placed = cv2.getPerspectiveTransform(corners * sides, (moved * sides).astype(np.float32))
    desk = (rng.uniform(*DESK) / 255,) * 3
    return np.asarray(cv2.warpPerspective(page, placed, (width, height), borderValue=desk), np.float32)


def _light(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the share of white that paper reflects, float32 [H, W]: light falls off, and paper is not even."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    angle, least, most = rng.uniform(0, 2 * np.pi), rng.uniform(*LIGHT), rng.uniform(*LIT)
    along = np.cos(angle) * columns / shape[1] + np.sin(angle) * rows / shape[0]
    share = (along - along.min()) / np.ptp(along)
    coarse = rng.normal(0, rng.uniform(*PAPER), (shape[0] // 6 + 2, shape[1] // 6 + 2)).astype(np.float32)
    uneven = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((least + (most - least) * share ** rng.uniform(0.6, 1.6)) * (1 + uneven), np.float32)
