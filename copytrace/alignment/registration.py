"""Registration of two videos: where in its picture a query shows which part of a reference's picture.

A copy may show a part of its original, or show it in a part of its picture, mirrored or turned. Then no two of their
pictures are alike as a whole, and neither descriptors nor thumbnails tell which moments of slides or of rolling text
are the same. But the edit is the same all along, and the points of a few pictures tell what it is. Laid over the
reference, the query's pictures are compared as if they had not been edited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.alignment.same_pictures import PLAIN, Thumbnails, align_alike_pictures, read_thumbnails
from copytrace.alignment.segments import Segment
from copytrace.arrays import Doubles
from copytrace.errors import MediaError
from copytrace.features.points import Points, find_points
from copytrace.features.thumbnails import LUMA, thumbnail_contrast
from copytrace.features.variants import VARIANTS
from copytrace.matching.ground import DRAWN, DRAWN_REPEATED, flat_ground
from copytrace.matching.same_picture import PLAIN_AND_MIRRORED
from copytrace.matching.verification import Verification, verify
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import frames_at
from copytrace.media.rgb import Pixels

QUERY_KEYFRAMES, REFERENCE_KEYFRAMES = 4, 8  # pictures whose points are compared, each with each
APART = 3.0  # root mean square difference of their thumbnails, in gray levels
SIDE = 640  # longest side of these pictures, in pixels
LOOKS = (0.25, 0.5, 0.75)  # of a query, where it is seen whether it is drawn
LEAST_INLIERS = 20  # of the two pictures with the most
LEAST_SHOWN = 0.2  # of a side of the reference
VIDEOS_KEPT = 64  # whose keyframes are in memory, each up to a megabyte
SHORT_SIDE, SMALLEST = 144, 32  # of pictures that are laid over each other, and a side of their common part, in pixels


@dataclass(frozen=True, slots=True)
class Keyframes:
    """A few different pictures of a video: the points of each, and how drawn the one that most is looks (0 to 1)."""

    points: tuple[Points, ...]
    ground: float


@dataclass(frozen=True, slots=True)
class Overlay:
    """How a query lies over a reference.

    `transform` float64 [2, 3] leads from the reference to the query, both in shares of width and height. `box` (x0, y0,
    x1, y1, in shares) is the part of the reference within which the query shows it.
    """

    transform: Doubles
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, transform: Doubles) -> Overlay | None:
        """Return the overlay of a transform; None if the query shows too little of the reference."""
        whole = np.vstack([transform, [0.0, 0.0, 1.0]])
        if abs(np.linalg.det(whole)) < 1e-6:
            return None
        corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]) @ np.linalg.inv(whole).T
        low, high = (np.clip(edge, 0.0, 1.0) for edge in (corners.min(axis=0)[:2], corners.max(axis=0)[:2]))
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        return cls(transform, box) if min(high - low) >= LEAST_SHOWN else None

    def lay_query(self, picture: Pixels, size: tuple[int, int]) -> Pixels:
        """Return what a picture of the query shows of the box, reduced or enlarged to `size` (width, height).

        Pictures are uint8 RGB [H, W, 3]. What the query does not show is black.
        """
        return self._cut(picture, self.transform, size)

    def cut_reference(self, picture: Pixels, size: tuple[int, int]) -> Pixels:
        """Return the box of a picture of the reference, at `size` (width, height); it is black as in the query."""
        shown = self.lay_query(np.full((SHORT_SIDE, SHORT_SIDE, 1), 1, np.uint8), size)
        return np.asarray(self._cut(picture, np.eye(2, 3), size) * shown.reshape(size[1], size[0], 1), np.uint8)

    def size_in(self, picture: Pixels) -> tuple[int, int]:
        """Return the width and the height of the box in a picture of the reference, in pixels, but `SMALLEST`."""
        x0, y0, x1, y1 = self.box
        sides = ((x1 - x0) * picture.shape[1], (y1 - y0) * picture.shape[0])
        width, height = (max(SMALLEST, round(side)) for side in sides)
        return width, height

    def _cut(self, picture: Pixels, transform: Doubles, size: tuple[int, int]) -> Pixels:
        x0, y0, x1, y1 = self.box
        place = np.array([[(x1 - x0) / size[0], 0.0, x0], [0.0, (y1 - y0) / size[1], y0], [0.0, 0.0, 1.0]])
        placed = np.diag([picture.shape[1], picture.shape[0]]) @ transform @ place
        return np.asarray(cv2.warpAffine(picture, placed, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


class Registrar:
    """What registers videos by their paths, and keeps the keyframes of some in memory.

    `thumbnails` gives those of a path, and `rules` say what points are, and how they are matched.
    """

    def __init__(self, thumbnails: Callable[[str], Thumbnails], limits: DecodingLimits, rules: ImageSettings) -> None:
        self._thumbnails, self._limits, self._rules = thumbnails, limits, rules
        self._keyframes = lru_cache(VIDEOS_KEPT)(self._read_keyframes)

    def is_drawn(self, query: str, duration: float) -> bool:
        """Return whether most pictures of a query of `duration` seconds may be drawn ones that were edited.

        Only a few are looked at. Raises `MediaError` if it cannot be read.
        """
        seconds = [share * duration for share in LOOKS]
        pictures = [each for each in frames_at(query, seconds, SIDE, limits=self._limits) if each is not None]
        return bool(pictures) and float(np.median([flat_ground(each) for each in pictures])) >= DRAWN_REPEATED

    def align(self, query: str, reference: str) -> Segment | None:
        """Return the stretch of two videos in which their pictures, laid over each other, are most alike.

        It is that of `align_alike_pictures`, and its score is 0. Returns None if there is none, or if the reference is
        not drawn. Raises `MediaError` if a video cannot be read.
        """
        original = self._keyframes(reference, False)
        if original.ground < DRAWN:
            return None
        overlay = self.register(self._keyframes(query, True), original)
        return self._align(query, reference, overlay) if overlay else None

    def register(self, query: Keyframes, reference: Keyframes) -> Overlay | None:
        """Return how a query lies over a reference, by the two keyframes of which most points agree; None if few do."""
        best: Verification | None = None
        for here in query.points:
            for there in reference.points:
                for number in PLAIN_AND_MIRRORED:
                    found = verify(here, there, VARIANTS[number], self._rules.verification)
                    best = found if best is None or found.inliers > best.inliers else best
        if best is None or best.transform is None or best.inliers < LEAST_INLIERS:
            return None
        return Overlay.of(best.transform)

    def _read_keyframes(self, path: str, is_query: bool) -> Keyframes:
        count = QUERY_KEYFRAMES if is_query else REFERENCE_KEYFRAMES
        found = frames_at(path, choose_moments(self._thumbnails(path), count), SIDE, limits=self._limits)
        pictures = [picture for picture in found if picture is not None]
        if not pictures:
            raise MediaError("has no picture that can be decoded")
        settings = self._rules.local.query_points if is_query else self._rules.local.reference_points
        points = tuple(find_points(picture, settings) for picture in pictures)
        return Keyframes(points, max(map(flat_ground, pictures)))

    def _align(self, query: str, reference: str, overlay: Overlay) -> Segment | None:
        size: list[tuple[int, int]] = []

        def cut(picture: Pixels) -> Pixels:
            size[:] = size or [overlay.size_in(picture)]
            return overlay.cut_reference(picture, size[0])

        there = read_thumbnails(reference, self._limits, SHORT_SIDE, cut)
        here = read_thumbnails(query, self._limits, SHORT_SIDE, lambda picture: overlay.lay_query(picture, size[0]))
        return align_alike_pictures(here, there)


def choose_moments(shown: Thumbnails, count: int) -> list[float]:
    """Return up to `count` seconds, ascending, at which a video shows clear pictures that differ as much as possible.

    The first one chosen is that of the most contrast.
    """
    luma = shown.pixels[:, :LUMA].astype(np.float32)
    contrasts = np.array([thumbnail_contrast(each) for each in shown.pixels])
    chosen = [int(contrasts.argmax())]
    apart = _distances(luma, chosen[0])
    while len(chosen) < count:
        clear = np.where(contrasts >= PLAIN, apart, 0.0)
        if clear.max() < APART:
            break
        chosen.append(int(clear.argmax()))
        apart = np.minimum(apart, _distances(luma, chosen[-1]))
    return [float(shown.times[row].mean()) for row in sorted(chosen)]


def _distances(luma: NDArray[np.float32], row: int) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.square(luma - luma[row]).mean(axis=1)), np.float32)
