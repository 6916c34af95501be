"""The panes of a query video: what borders, split screens and pictures in pictures show, each on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.overlays.boxes import OverlayDetector
from copytrace.panes.inset_tracks import find_insets
from copytrace.panes.maps import Floats, PaneMaps, measure_maps
from copytrace.panes.rectangles import Rectangle, find_rectangles, merge_rectangles, moving_box

WINDOW = 8  # frames of the parts of a window in which a passing layout is looked for
SMALLEST_CROP = 8  # pixels of a side under which a crop says nothing


@dataclass(frozen=True, slots=True)
class Pane:
    """A part of a video's frames that shows something of its own: "whole", "pane0", ..., or "inset0", ..."""

    name: str
    boxes: Floats  # [N, 4] x0, y0, x1, y1 as shares of width and height, one row per frame; NaN where it is not there


def find_panes(
    frames: Iterable[NDArray[np.uint8]],
    *,
    detector: OverlayDetector | None,
    min_strength: float = 0.3,
    min_side: float = 0.15,
    max_aspect: float = 6.0,
    looks: int = 12,
    min_confidence: float = 0.3,
    min_share: float = 0.1,
    max_panes: int = 10,
) -> list[Pane]:
    """Find the panes of a window of frames, uint8 [H, W, 3] RGB of one size, about one per second and up to about 64.

    The first is always "whole". A "pane" is framed by straight edges that keep their place while the content changes,
    or by borders that stand still, in all of the window or for some seconds: `min_strength` (0..1) is the share of its
    weakest side that must be such an edge. An "inset" is what `detector`, if any, finds in `min_share` of the frames
    it looks at (`looks` of them, all where one moves) with `min_confidence`, and no line frames. `min_side` is the
    shortest side as a share of the frame's own, `max_aspect` the largest ratio of a pane's sides in pixels. At most
    `max_panes` follow "whole", the clearest first. What is there is claimed with a few frames to spare, as a pane
    too many costs time and one too few a copy. Frames may come from a generator: one is held at a time, and of the
    others a reduced picture. After the edge and variance maps of VSC2022's rank-1 matching solution.

    Raises `InputError` for no frames, for another shape or type, or when the size changes.
    """
    maps = measure_maps(frames)
    count = len(maps.frames)
    panes = [Pane("whole", np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)))]
    layout = _layout(maps, min_strength, min_side, max_aspect)[:max_panes]
    panes += [Pane(f"pane{index}", boxes) for index, boxes in enumerate(layout)]
    if detector is None:
        return panes
    insets = find_insets(
        maps.frames,
        detector,
        layout,
        looks=looks,
        min_confidence=min_confidence,
        min_share=min_share,
        min_side=min_side,
    )
    return panes + [Pane(f"inset{index}", boxes) for index, boxes in enumerate(insets[: max_panes - len(layout)])]


def crop(frame: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Cut one pane out of its frame, uint8 [H, W, 3]; None where it is not there or has under 8 pixels a side.

    Raises `InputError` for another shape or type.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}; convert it to RGB")
    if np.isnan(box).any():
        return None
    height, width = frame.shape[:2]
    x0, x1 = (round(float(x) * width) for x in np.clip(box[[0, 2]], 0, 1))
    y0, y1 = (round(float(y) * height) for y in np.clip(box[[1, 3]], 0, 1))
    return frame[y0:y1, x0:x1] if min(x1 - x0, y1 - y0) >= SMALLEST_CROP else None


def _layout(maps: PaneMaps, min_strength: float, min_side: float, max_aspect: float) -> list[Floats]:
    """Boxes [N, 4] of the panes that straight lines or still borders frame, the clearest first."""
    count, height, width = maps.frames.shape[:3]
    found: list[Rectangle] = []
    for start, stop in _windows(count):
        found += find_rectangles(maps, start, stop, min_strength=min_strength, min_side=min_side, max_aspect=max_aspect)
    box = moving_box(maps, min_side=min_side)
    layout: list[Floats] = []
    for one, there in merge_rectangles(maps, found + ([box] if box else [])):
        corners = np.array([one.x0 / width, one.y0 / height, one.x1 / width, one.y1 / height], np.float32)
        layout.append(np.where(there[:, None], corners, np.float32(np.nan)))
    return layout


def _windows(count: int) -> Iterator[tuple[int, int]]:
    """All frames at once, then half-overlapping parts of them."""
    yield 0, count
    if count >= 2 * WINDOW:
        for start in range(0, count - WINDOW // 2, WINDOW // 2):
            yield start, min(start + WINDOW, count)
