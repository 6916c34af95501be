"""A picture under edit: its pixels, and the exact position of the original photo in it.

All positions are normalized: (0, 0) is the upper left corner of the upper left pixel, (1, 1) the lower right corner
of the lower right one, for any size of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from copytrace.arrays import Doubles
from copytrace.errors import InputError

Color = tuple[int, int, int]
PixelBox = tuple[int, int, int, int]
T = TypeVar("T")

MIN_SIDE = 32
MAX_PIXELS = 1_500_000
_UNIT_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@dataclass(frozen=True)
class EditedPicture:
    """An edited picture.

    Attributes:
        image: RGB.
        transform: 3x3 float64 homography from the original's coordinates to those of the edited picture, with a lower
            right element of 1.
        outline: (n, 2) float64 corners, in the edited picture, of the convex part in which the original is visible.
            Parts under decorations count as visible.
    """

    image: Image.Image
    transform: Doubles = field(default_factory=lambda: np.eye(3))
    outline: Doubles = field(default_factory=_UNIT_SQUARE.copy)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Smallest upright box (x0, y0, x1, y1) around the original; all zeros if none of it is left."""
        if not len(self.outline):
            return (0.0, 0.0, 0.0, 0.0)
        (x0, y0), (x1, y1) = self.outline.min(axis=0), self.outline.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    @property
    def mirrored(self) -> bool:
        """Whether the original is mirrored, however it is turned."""
        return bool(np.linalg.det(self.transform) < 0)

    @property
    def visible_share(self) -> float:
        """Share of the original's area that still lies in the picture, 0..1."""
        back = np.linalg.inv(self.transform).astype(np.float64)
        return polygon_area(map_points(back, self.outline))

    @property
    def visible_pixels(self) -> float:
        """Number of pixels of the edited picture that show the original."""
        return polygon_area(self.outline) * self.image.width * self.image.height

    def replace_pixels(self, image: Image.Image) -> EditedPicture:
        """Return the same geometry with other pixels; `image` may have another size, as positions are normalized."""
        return replace(self, image=image)

    def transform_to(self, image: Image.Image, matrix: Doubles) -> EditedPicture:
        """Return `image`, which shows at `matrix` p what this picture shows at p; parts outside of it are lost."""
        transform = matrix @ self.transform
        outline = clip_to_unit_square(map_points(matrix, self.outline))
        return EditedPicture(image, transform / transform[2, 2], outline)

    def crop(self, box: PixelBox) -> EditedPicture:
        """Return the part in the pixel `box` (x0, y0, x1, y1)."""
        (x0, y0, x1, y1), (width, height) = box, self.image.size
        matrix = np.array(
            [[width / (x1 - x0), 0, -x0 / (x1 - x0)], [0, height / (y1 - y0), -y0 / (y1 - y0)], [0, 0, 1]]
        )
        return self.transform_to(v2.crop(self.image, top=y0, left=x0, height=y1 - y0, width=x1 - x0), matrix)

    def paste_onto(self, canvas: Image.Image, box: PixelBox, opacity: float = 1.0) -> EditedPicture:
        """Scale to the pixel `box` (x0, y0, x1, y1) of `canvas`, and draw on it; `opacity` 1 hides the canvas there."""
        (x0, y0, x1, y1), (width, height) = box, canvas.size
        scaled = self.image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, reducing_gap=2.0)
        if opacity < 1:
            scaled = Image.blend(canvas.crop(box), scaled, opacity)
        canvas.paste(scaled, (x0, y0))
        matrix = np.array([[(x1 - x0) / width, 0, x0 / width], [0, (y1 - y0) / height, y0 / height], [0, 0, 1]])
        return self.transform_to(canvas, matrix)

    def warp(self, matrix: Doubles, size: tuple[int, int], fill: Color) -> EditedPicture:
        """Warp by a 3x3 `matrix` of pixel positions, with (0, 0) at a corner, to `size` (width, height)."""
        # OpenCV's origin is the center of the first pixel, ours its corner.
        to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        centered = np.linalg.inv(to_corner) @ matrix @ to_corner
        pixels = cv2.warpPerspective(
            np.asarray(self.image),
            centered,
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        from_unit = np.diag([self.image.width, self.image.height, 1.0])
        to_unit = np.diag([1 / size[0], 1 / size[1], 1.0])
        return self.transform_to(Image.fromarray(pixels), to_unit @ matrix @ from_unit)


@dataclass(frozen=True)
class Strength:
    """Range of the strength of edits: 0 is barely visible, 1 the harshest that leaves the picture recognizable."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"strength {self.low}..{self.high} is not a range within 0..1; give 0 <= low <= high <= 1")


@dataclass(frozen=True)
class Draw:
    """Draws all choices of an edit from one generator.

    Attributes:
        rng: the generator; the same state gives the same edit.
        strength: the range from which `amount` draws.
        load_donor: loads another photo to paste; only the overlay edits call it.
    """

    rng: np.random.Generator
    strength: Strength = field(default_factory=Strength)
    load_donor: Callable[[np.random.Generator], Image.Image] | None = None

    def amount(self, gentle: float, harsh: float) -> float:
        """Draw a number between `gentle` (strength 0) and `harsh` (strength 1) from the range of strengths."""
        return gentle + self.between(self.strength.low, self.strength.high) * (harsh - gentle)

    def between(self, low: float, high: float) -> float:
        """Draw a number uniformly, independent of the strength."""
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Draw an integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of `options`, all equally likely."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """Return True with `probability`."""
        return bool(self.rng.random() < probability)

    def sign(self) -> int:
        """Draw -1 or 1."""
        return self.choice((-1, 1))

    def color(self) -> Color:
        """Draw a color: black or white, the first that editors offer, or any other."""
        anything = (self.integer(0, 255), self.integer(0, 255), self.integer(0, 255))
        return self.choice(((0, 0, 0), (255, 255, 255), anything, anything))

    def donor(self) -> Image.Image:
        """Load a donor photo, RGB. Raises `InputError` if there are none."""
        if self.load_donor is None:
            raise InputError("an overlay edit needs donor photos; give some, or leave out the kind `overlay`")
        return self.load_donor(self.rng)


def map_points(matrix: Doubles, points: Doubles) -> Doubles:
    """Map (n, 2) points by a 3x3 homography."""
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    mapped: Doubles = homogeneous[:, :2] / homogeneous[:, 2:]
    return mapped


def clip_to_unit_square(polygon: Doubles) -> Doubles:
    """Cut a convex (n, 2) polygon to the unit square (Sutherland and Hodgman 1974); (0, 2) if nothing is left."""
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -1.0), (1, 1, 0.0), (1, -1, -1.0)):
        depth = sign * polygon[:, axis] - limit
        kept: list[Doubles] = []
        for here, there, a, b in zip(polygon, np.roll(polygon, -1, axis=0), depth, np.roll(depth, -1), strict=True):
            if a >= 0:
                kept.append(here)
            if a * b < 0:
                kept.append(here + (there - here) * a / (a - b))
        polygon = np.array(kept).reshape(-1, 2)
    return np.clip(polygon, 0.0, 1.0)


def polygon_area(polygon: Doubles) -> float:
    """Return the area of a simple (n, 2) polygon in either orientation."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def limit_size(image: Image.Image) -> Image.Image:
    """Scale a picture so that no side is under `MIN_SIDE` and its area is at most `MAX_PIXELS`; the shape stays."""
    width, height = image.size
    scale = min(max(1.0, MIN_SIDE / min(width, height)), (MAX_PIXELS / (width * height)) ** 0.5)
    if scale == 1:
        return image
    return image.resize((max(MIN_SIDE, int(width * scale)), max(MIN_SIDE, int(height * scale))))
