"""SIFT points with root-SIFT descriptors of an image or of a view of it, as in imgFp."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.images import PointSettings
from copytrace.arrays import Floats

Bytes = NDArray[np.uint8]

DIMENSIONS = 128
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)

# SIFT's 128 numbers are 4 rows × 4 columns × 8 orientations in a frame turned to the point's own direction.
_CELLS = np.arange(DIMENSIONS).reshape(4, 4, 8)
# In a mirror image, rows and orientations are in reverse order; this order restores them (imgFp's mirror test).
MIRRORED_ORDER = _CELLS[::-1][:, :, -np.arange(8) % 8].ravel()
# In a negative, gradients and the point's own direction turn by 180°: cells are swapped, orientations stay.
NEGATIVE_ORDER = _CELLS[::-1, ::-1].ravel()


@dataclass(frozen=True, slots=True)
class Points:
    """The N points of one view.

    `x, y, scale` are float32 [N] in pixels of the view, which is `width` × `height`; `angle` is in radians;
    `descriptor` uint8 [N, 128]. `box` is the part of the image that the view shows, x0, y0, x1, y1 in 0..1.
    """

    x: Floats
    y: Floats
    scale: Floats
    angle: Floats
    descriptor: Bytes
    width: int
    height: int
    box: tuple[float, float, float, float] = field(default=WHOLE_IMAGE)

    def __len__(self) -> int:
        return len(self.x)

    def relative_geometry(self) -> Floats:
        """Return float32 [N, 4]: x, y and scale in short sides of the view, and the angle."""
        side = min(self.width, self.height)
        return np.stack([self.x / side, self.y / side, self.scale / side, self.angle], axis=1).astype(np.float32)

    def image_positions(self) -> Floats:
        """Return float32 [N, 2]: x and y as shares of the whole image's width and height."""
        x0, y0, x1, y1 = self.box
        x = x0 + self.x / self.width * (x1 - x0)
        y = y0 + self.y / self.height * (y1 - y0)
        return np.stack([x, y], axis=1).astype(np.float32)


def find_points(
    pixels: Bytes,
    settings: PointSettings,
    *,
    stretch: float = 1.0,
    box: tuple[float, float, float, float] = WHOLE_IMAGE,
) -> Points:
    """Find the SIFT points of `pixels`, uint8 [H, W, 3] RGB, resized as `settings` say and widened by `stretch`.

    SIFT is robust to rotation and scale but not to stretching: a view widened by 2 matches a copy that was squeezed by
    2. Widening keeps the area of the view. `box` is the part of the image that `pixels` already are; it is only stored.
    """
    gray = _resize(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8), settings, stretch)
    height, width = gray.shape
    sift = cv2.SIFT.create(0, settings.levels, settings.contrast, settings.edge, 1.6)
    # It takes less time to make the pyramid again for the points that are kept than to describe all points. Without
    # points of its first octave, it would be another one.
    few = settings.max_points > 0 and settings.first_octave < 0
    found, raw = (sift.detect(gray, None), None) if few else sift.detectAndCompute(gray, None)
    rows = np.array([(*k.pt, k.size / 2, k.angle, k.response, _octave(k)) for k in found], np.float64).reshape(-1, 6)
    kept = _select(rows, settings)
    described = sift.compute(gray, [found[row] for row in kept])[1] if raw is None else raw[kept]
    descriptors = np.zeros((0, DIMENSIONS), np.float32) if described is None else np.asarray(described, np.float32)
    x, y, scale, angle = (rows[kept, column].astype(np.float32) for column in range(4))
    return Points(x, y, scale, np.deg2rad(angle), root_sift(descriptors), width, height, box)


def root_sift(descriptors: Floats) -> Bytes:
    """Turn SIFT float32 [N, 128] into root-SIFT uint8 [N, 128]: √(v / Σv) · 255, rounded (Arandjelović 2012; imgFp)."""
    total = descriptors.sum(axis=1, keepdims=True)
    shares = np.divide(descriptors, total, out=np.zeros_like(descriptors), where=total > 0)
    rounded: Bytes = (np.sqrt(shares) * 255 + 0.5).astype(np.uint8)
    return rounded


def _resize(gray: Bytes, settings: PointSettings, stretch: float) -> Bytes:
    height, width = gray.shape
    ratio = settings.short_side / (min(height, width) + 1e-5)
    if not settings.enlarge:
        ratio = min(ratio, 1.0)
    # Otherwise a strip of 20,000 × 8 px would become huge: no view has more than 16 squares of its short side.
    ratio = min(ratio, settings.short_side * 4 / (height * width) ** 0.5)
    size = (max(int(width * ratio * stretch**0.5), 4), max(int(height * ratio / stretch**0.5), 4))
    if size == (width, height):
        return gray
    if settings.interpolation == "bicubic":
        return np.array(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC))
    smaller = ratio * max(stretch, 1 / stretch) ** 0.5 <= 1
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC).astype(np.uint8)


def _octave(keypoint: cv2.KeyPoint) -> int:
    octave = keypoint.octave & 255
    return octave - 256 if octave > 127 else octave


def _select(rows: NDArray[np.float64], settings: PointSettings) -> NDArray[np.int64]:
    """Return the rows to keep, the best ones first, with ties in a fixed order; none if they are too few.

    Small marks of the highest contrast, such as letters, are many, and other ones are the strongest after a picture was
    resized; the largest points remain the largest, and blur and noise hardly move them. So half are chosen by size.
    """
    allowed = np.flatnonzero(rows[:, 5] >= settings.first_octave)
    x, y, scale, angle, response, _ = rows[allowed].T
    order = np.lexsort((angle, x, y, -response))
    if settings.selection == "mixed":
        in_turn = np.stack([order, np.lexsort((angle, x, y, -response, -scale))], axis=1).ravel()
        _, first = np.unique(in_turn, return_index=True)
        order = in_turn[np.sort(first)]
    kept = allowed[order][: settings.max_points or None]
    return kept if len(kept) >= settings.min_points else kept[:0]
