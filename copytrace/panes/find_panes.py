"""The panes of a query video: the separate pictures of split screens, framed videos and pictures in pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.videos import PaneSettings
from copytrace.errors import InputError
from copytrace.overlays.detectors import OverlayDetector
from copytrace.panes.inset_tracks import find_insets
from copytrace.panes.maps import Floats, PaneMaps, measure_maps
from copytrace.panes.names import WHOLE
from copytrace.panes.rectangles import Rectangle, find_rectangles, merge_rectangles, moving_box

WINDOW = 8  # frames in each part of a window that is searched for a layout that passes
SMALLEST_CROP = 8  # pixels; a crop with a shorter side is too small to describe


@dataclass(frozen=True, slots=True)
class Pane:
    """A part of a video's frames with content of its own: `WHOLE`, "pane0", ..., or "inset0", ..."""

    name: str
    boxes: Floats  # [N, 4] x0, y0, x1, y1 in shares of width and height, one row per frame; NaN where it is absent


def find_panes(
    frames: Iterable[NDArray[np.uint8]],
    settings: PaneSettings = PaneSettings(),  # noqa: B008 - settings cannot change
    *,
    detector: OverlayDetector | None,
) -> list[Pane]:
    """Return the panes of a window of frames, uint8 [H, W, 3] RGB of one size; about one frame per second, up to 64.

    The first pane is always `WHOLE`. A "pane" has straight edges that keep their place while the content changes, or
    still borders around it, in the whole window or for some seconds. An "inset" has no such edges; `detector` finds
    it, if there is one. At most `settings.max_panes` follow the first, the clearest first. Each pane is reported for a
    few frames more than it is seen: a pane too many costs time, a pane too few a copy. Frames may come from a
    generator; memory holds one full frame and reduced pictures of the others. After the edge and variance maps of
    VSC2022's rank-1 matching solution.

    Raises `InputError` if there are no frames, or if a frame has another shape, type or size.
    """
    maps = measure_maps(frames)
    panes = [whole_pane(len(maps.frames))]
    layout = _find_layout(maps, settings)[: settings.max_panes]
    panes += [Pane(f"pane{index}", boxes) for index, boxes in enumerate(layout)]
    if detector is None:
        return panes
    insets = find_insets(maps.frames, detector, layout, settings)[: settings.max_panes - len(layout)]
    return panes + [Pane(f"inset{index}", boxes) for index, boxes in enumerate(insets)]


def whole_pane(count: int) -> Pane:
    """Return the pane that covers all of `count` frames."""
    return Pane(WHOLE, np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)))


def crop(frame: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Cut one pane out of its frame, uint8 [H, W, 3]; return None if it is absent or a side has under 8 pixels.

    Raises `InputError` if the frame has another shape or type.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}; convert it to RGB")
    if np.isnan(box).any():
        return None
    height, width = frame.shape[:2]
    x0, x1 = (round(float(x) * width) for x in np.clip(box[[0, 2]], 0, 1))
    y0, y1 = (round(float(y) * height) for y in np.clip(box[[1, 3]], 0, 1))
    return frame[y0:y1, x0:x1] if min(x1 - x0, y1 - y0) >= SMALLEST_CROP else None


def _find_layout(maps: PaneMaps, settings: PaneSettings) -> list[Floats]:
    """Return boxes [N, 4] of the panes that have straight edges or still borders, the clearest first."""
    count, height, width = maps.frames.shape[:3]
    found: list[Rectangle] = []
    for start, stop in _windows(count):
        found += find_rectangles(maps, start, stop, settings)
    box = moving_box(maps, min_side=settings.min_side)
    layout: list[Floats] = []
    for one, present in merge_rectangles(maps, found + ([box] if box else [])):
        corners = np.array([one.x0 / width, one.y0 / height, one.x1 / width, one.y1 / height], np.float32)
        layout.append(np.where(present[:, None], corners, np.float32(np.nan)))
    return layout


def _windows(count: int) -> Iterator[tuple[int, int]]:
    """Yield the whole window first, then parts of it that overlap by half."""
    yield 0, count
    if count >= 2 * WINDOW:
        for start in range(0, count - WINDOW // 2, WINDOW // 2):
            yield start, min(start + WINDOW, count)
