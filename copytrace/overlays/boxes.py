"""Boxes of pictures pasted into a query, and which of them become crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from copytrace.errors import ConfigError
from copytrace.overlays.edges import SAME_BOX_IOU

Branch = Literal["both", "global", "local"]


@dataclass(frozen=True, slots=True)
class Box:
    """A picture inside a picture: corners as shares of width and height (0..1, x0 < x1, y0 < y1), confidence 0..1.

    `branch` says which branches search it; imgFp has a detector for each.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float
    branch: Branch = "both"

    @property
    def area(self) -> float:
        """Share of the whole picture's area, 0..1."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def aspect(self) -> float:
        """Height over width of the normalized sides, as in imgFp: a box with the shape of the whole picture has 1."""
        return (self.y1 - self.y0) / (self.x1 - self.x0)

    def to_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return x0, y0, x1, y1 in whole pixels, rounded down as in imgFp; a box of less than a pixel may be empty."""
        return int(self.x0 * width), int(self.y0 * height), int(self.x1 * width), int(self.y1 * height)

    def iou(self, other: Box) -> float:
        """Return the intersection over union with `other`, 0..1."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(width, 0.0) * max(height, 0.0)
        return shared / (self.area + other.area - shared)


def choose_crops(
    boxes: Sequence[Box], *, min_confidence: float, max_area: float = 0.85, max_aspect: float = 4.0, limit: int = 1
) -> list[Box]:
    """Choose the boxes to search as crops, best first, by the rules of imgFp (ISC 2021, third place).

    A box is dropped when its confidence is `min_confidence` or less (imgFp: 0.55 for the global descriptor, 0.50 for
    the points), when its area exceeds `max_area`, or when its `aspect` is over `max_aspect` or under its inverse. The
    best `limit` of the others are kept; imgFp keeps one. A box with an IoU over 0.7 with a better one is skipped. Of
    equal confidences the earlier box comes first. Raises `ConfigError` for a negative limit or a `max_aspect` under 1.
    """
    if limit < 0:
        raise ConfigError(f"limit is {limit} crops per picture; give 0 or more")
    if max_aspect < 1:
        raise ConfigError(f"max_aspect is {max_aspect}; give 1 or more, as it bounds both tall and wide boxes")
    candidates = [
        box
        for box in boxes
        if box.confidence > min_confidence and box.area <= max_area and 1 / max_aspect <= box.aspect <= max_aspect
    ]
    chosen: list[Box] = []
    for box in sorted(candidates, key=lambda box: -box.confidence):
        if len(chosen) >= limit:
            break
        if all(box.iou(better) <= SAME_BOX_IOU for better in chosen):
            chosen.append(box)
    return chosen
