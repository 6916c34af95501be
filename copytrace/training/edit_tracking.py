"""A picture under edit: its pixels, and exactly where the original photo went.

All positions are normalised: (0, 0) is the upper left corner of the upper left pixel, (1, 1) the lower right corner
of the lower right one, whatever the size of the picture.
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

Colour = tuple[int, int, int]
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
        transform: 3x3 float64 homography, original's coordinates to the edited picture's, lower right element 1.
        outline: (n, 2) float64 corners, in the edited picture, of the convex part in which the original is seen.
            What decorations cover still counts as seen.
    """

    image: Image.Image
    transform: Doubles = field(default_factory=lambda: np.eye(3))
    outline: Doubles = field(default_factory=_UNIT_SQUARE.copy)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The smallest upright box (x0, y0, x1, y1) round the original; all zeros if none of it is left."""
        if not len(self.outline):
            return (0.0, 0.0, 0.0, 0.0)
        (x0, y0), (x1, y1) = self.outline.min(axis=0), self.outline.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged, seen along the original's own upright."""
        return bool(np.linalg.det(self.transform) < 0)

    @property
    def seen(self) -> float:
        """The share of the original's area that still lies in the picture, 0..1."""
        back = np.linalg.inv(self.transform).astype(np.float64)
        return polygon_area(map_points(back, self.outline))

    @property
    def pixels_seen(self) -> float:
        """How many pixels of the edited picture show the original."""
        return polygon_area(self.outline) * self.image.width * self.image.height

    def repainted(self, image: Image.Image) -> EditedPicture:
        """The same geometry with other pixels; `image` may have another size, which leaves normalised places alone."""
        return replace(self, image=image)

    def moved(self, image: Image.Image, matrix: Doubles) -> EditedPicture:
        """`image` shows what this picture showed at p at `matrix` p; what falls outside of it is lost."""
        transform = matrix @ self.transform
        outline = clip_to_unit_square(map_points(matrix, self.outline))
        return EditedPicture(image, transform / transform[2, 2], outline)

    def cropped(self, box: PixelBox) -> EditedPicture:
        """Keep the pixels of `box` (x0, y0, x1, y1)."""
        (x0, y0, x1, y1), (width, height) = box, self.image.size
        matrix = np.array(
            [[width / (x1 - x0), 0, -x0 / (x1 - x0)], [0, height / (y1 - y0), -y0 / (y1 - y0)], [0, 0, 1]]
        )
        return self.moved(v2.crop(self.image, top=y0, left=x0, height=y1 - y0, width=x1 - x0), matrix)

    def placed(self, canvas: Image.Image, box: PixelBox, opacity: float = 1.0) -> EditedPicture:
        """Scale to the pixel `box` (x0, y0, x1, y1) of `canvas`, which is drawn on; `opacity` 1 hides what is below."""
        (x0, y0, x1, y1), (width, height) = box, canvas.size
        scaled = self.image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, reducing_gap=2.0)
        if opacity < 1:
            scaled = Image.blend(canvas.crop(box), scaled, opacity)
        canvas.paste(scaled, (x0, y0))
        matrix = np.array([[(x1 - x0) / width, 0, x0 / width], [0, (y1 - y0) / height, y0 / height], [0, 0, 1]])
        return self.moved(canvas, matrix)

    def warped(self, matrix: Doubles, size: tuple[int, int], fill: Colour) -> EditedPicture:
        """Warp by a 3x3 `matrix` from pixel corners to pixel corners of a picture of `size` (width, height)."""
        # OpenCV counts from the centre of the first pixel, we from its corner.
        to_corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        centred = np.linalg.inv(to_corner) @ matrix @ to_corner
        pixels = cv2.warpPerspective(
            np.asarray(self.image),
            centred,
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        from_unit = np.diag([self.image.width, self.image.height, 1.0])
        to_unit = np.diag([1 / size[0], 1 / size[1], 1.0])
        return self.moved(Image.fromarray(pixels), to_unit @ matrix @ from_unit)


@dataclass(frozen=True)
class Strength:
    """How far edits go: 0 is an edit that one just sees, 1 the harshest that leaves the picture recognisable."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"strength {self.low}..{self.high} is not a range within 0..1; give 0 <= low <= high <= 1")


@dataclass(frozen=True)
class Draw:
    """Every choice that an edit makes, drawn from one generator.

    Attributes:
        rng: the generator; the same state gives the same edit.
        strength: the range from which `amount` draws.
        donor_of: loads a photo of somebody else to paste onto or with; only the overlay edits ask for one.
    """

    rng: np.random.Generator
    strength: Strength = field(default_factory=Strength)
    donor_of: Callable[[np.random.Generator], Image.Image] | None = None

    def amount(self, gentle: float, harsh: float) -> float:
        """A number between `gentle` and `harsh`, as far along as the strength says."""
        return gentle + self.between(self.strength.low, self.strength.high) * (harsh - gentle)

    def between(self, low: float, high: float) -> float:
        """A number drawn uniformly, whatever the strength."""
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of `options`, all equally likely."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with `probability`."""
        return bool(self.rng.random() < probability)

    def sign(self) -> int:
        """-1 or 1."""
        return self.choice((-1, 1))

    def colour(self) -> Colour:
        """Mostly what editors offer first (black, white), else any colour."""
        anything = (self.integer(0, 255), self.integer(0, 255), self.integer(0, 255))
        return self.choice(((0, 0, 0), (255, 255, 255), anything, anything))

    def donor(self) -> Image.Image:
        """A donor photo, RGB; `InputError` if there is none."""
        if self.donor_of is None:
            raise InputError("an overlay edit needs donor photos; give some, or leave the kind `overlay` out")
        return self.donor_of(self.rng)


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
    """The area of a simple (n, 2) polygon, whichever way round."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def within_limits(image: Image.Image) -> Image.Image:
    """Scale, keeping the shape, until no side is under `MIN_SIDE` and the area is at most `MAX_PIXELS`."""
    width, height = image.size
    scale = min(max(1.0, MIN_SIDE / min(width, height)), (MAX_PIXELS / (width * height)) ** 0.5)
    if scale == 1:
        return image
    return image.resize((max(MIN_SIDE, int(width * scale)), max(MIN_SIDE, int(height * scale))))
