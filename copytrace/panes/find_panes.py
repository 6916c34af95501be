"""The panes of a query video: the separate pictures of split screens, framed videos and pictures in pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.videos import PaneSettings
from copytrace.errors import InputError
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import OverlayDetector
from copytrace.panes.names import WHOLE
from copytrace.panes.rectangles import (
    NEAR,
    Bytes,
    Floats,
    PaneMaps,
    Rectangle,
    find_rectangles,
    measure_maps,
    merge_rectangles,
)

WINDOW = 8  # frames in each part of a window that is searched for a layout that passes
STILL_VARIANCE = 4.0  # squared gray levels; compression alone may cause them
STILL_SHARE = 0.02  # of the median variance; a row or column that changes less is still
SMALLEST_CROP = 8  # pixels; a crop with a shorter side is too small to describe

SAME_INSET_IOU = 0.4  # two boxes in successive frames searched are one inset; it may move in between
STILL_IOU = 0.8  # a track is still if all its boxes overlap their median by more than this
SHAPE_CHANGE = 1.35  # largest ratio between the sides of a moving inset's box and of the box before
GAP = 2  # frames searched in a row in which the detector may miss an inset
LARGEST = 0.9  # share of the frame; a larger box is the frame itself
KNOWN_IOU = 0.6  # a box that overlaps a known pane by more than this is that pane


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


@dataclass(frozen=True, slots=True)
class _Track:
    """One inset's boxes and the indices of their frames, in order of time."""

    frames: list[int]
    boxes: list[Box]

    @property
    def typical(self) -> Box:
        """Median of its boxes."""
        corners = [(box.x0, box.y0, box.x1, box.y1) for box in self.boxes]
        return _box(np.median(np.array(corners, np.float32), axis=0))

    @property
    def moves(self) -> bool:
        """Whether some box lies elsewhere than the median."""
        return any(self.typical.iou(box) < STILL_IOU for box in self.boxes)


def find_insets(
    frames: Bytes,
    detector: OverlayDetector,
    known: list[Floats],
    settings: PaneSettings,
) -> list[Floats]:
    """Return the boxes of each inset in frames uint8 [N, H, W, 3]: float32 [N, 4] in shares, NaN where it is absent.

    The detector searches `settings.looks` frames at most, evenly spaced, or all of them if something moves. Boxes that
    overlap a pane of `known`, each [N, 4], are ignored. An inset must be found with `settings.min_confidence` in
    `settings.min_share` of the frames searched, and in two at least if more than one was; the surest comes first. A
    still inset has its median box throughout. A moving one has a box for every frame, interpolated where the detector
    missed it.
    """
    count = len(frames)
    searched = np.unique(np.linspace(0, count - 1, min(settings.looks, count)).round().astype(int))
    detect = _remember_last(detector.detect)
    boxes = {int(frame): _find_unknown(frames, detect, known, int(frame), settings) for frame in searched}
    tracks = _build_tracks(boxes, settings.min_share)
    if len(searched) < count and any(track.moves for track in tracks):
        for frame in set(range(count)) - boxes.keys():
            boxes[frame] = _find_unknown(frames, detect, known, frame, settings)
        tracks = _build_tracks(boxes, settings.min_share)
    return [_interpolate_track(track, np.array(sorted(boxes)), count) for track in tracks]


def _remember_last(detect: Callable[[Bytes], list[Box]]) -> Callable[[Bytes], list[Box]]:
    """Return a detector that looks only once at frames in a row which are the same, as of slides and stills."""
    last: list[tuple[Bytes, list[Box]]] = []

    def look(frame: Bytes) -> list[Box]:
        if not last or not np.array_equal(frame, last[0][0]):
            last[:] = [(frame, detect(frame))]
        return last[0][1]

    return look


def _find_unknown(
    frames: Bytes, detect: Callable[[Bytes], list[Box]], known: list[Floats], frame: int, settings: PaneSettings
) -> list[Box]:
    panes = [_box(boxes[frame]) for boxes in known if not np.isnan(boxes[frame, 0])]
    return [
        box
        for box in detect(frames[frame])
        if box.confidence >= settings.min_confidence
        and box.area <= LARGEST
        and min(box.x1 - box.x0, box.y1 - box.y0) >= settings.min_side
        and all(box.iou(pane) < KNOWN_IOU for pane in panes)
    ]


def _box(corners: Floats) -> Box:
    x0, y0, x1, y1 = corners.tolist()
    return Box(x0, y0, x1, y1, 1.0)


def _build_tracks(boxes: dict[int, list[Box]], min_share: float) -> list[_Track]:
    """Join the boxes of successive frames into tracks; return those found often enough, the surest first."""
    searched = sorted(boxes)
    tracks: list[_Track] = []
    for turn, frame in enumerate(searched):
        _extend_tracks(tracks, boxes[frame], frame, set(searched[max(turn - GAP - 1, 0) : turn]))
    needed = max(min_share * len(searched), min(2, len(searched)))
    return sorted(
        (track for track in tracks if len(track.frames) >= needed),
        key=lambda track: -sum(box.confidence for box in track.boxes),
    )


def _extend_tracks(tracks: list[_Track], boxes: list[Box], frame: int, recent: set[int]) -> None:
    """Add each box to the track that it continues best, or start a new track with it."""
    taken: set[int] = set()
    for box in boxes:
        fits = [
            (_likeness(track.boxes[-1], box), index)
            for index, track in enumerate(tracks)
            if index not in taken and track.frames[-1] in recent
        ]
        likeness, index = max(fits, default=(0.0, -1))
        if likeness > 0:
            tracks[index].frames.append(frame)
            tracks[index].boxes.append(box)
            taken.add(index)
        else:
            tracks.append(_Track([frame], [box]))
            taken.add(len(tracks) - 1)


def _likeness(before: Box, box: Box) -> float:
    """Return the IoU of two boxes that may show one inset; if it moved, at most 0.2 where the size is kept, else 0."""
    iou = before.iou(box)
    if iou >= SAME_INSET_IOU:
        return iou
    wider = (box.x1 - box.x0) / (before.x1 - before.x0)
    taller = (box.y1 - box.y0) / (before.y1 - before.y0)
    change = max(wider, 1 / wider, taller, 1 / taller)
    return 0.1 * (1 + iou) / change if change <= SHAPE_CHANGE else 0.0


def _interpolate_track(track: _Track, searched: NDArray[np.int_], count: int) -> Floats:
    if track.moves:
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in track.boxes])
        boxes = np.stack([np.interp(np.arange(count), track.frames, edge) for edge in corners.T], axis=1)
    else:
        box = track.typical
        boxes = np.tile([box.x0, box.y0, box.x1, box.y1], (count, 1))
    boxes = boxes.astype(np.float32)
    # In frames that were not searched, between one without the inset and one with it, the inset counts as present.
    before = searched[searched < track.frames[0]]
    after = searched[searched > track.frames[-1]]
    boxes[: before[-1] + 1 if len(before) else 0] = np.nan
    boxes[after[0] if len(after) else count :] = np.nan
    return boxes


def moving_box(maps: PaneMaps, *, min_side: float) -> Rectangle | None:
    """Return the rows and columns that change, that is, the frame without still borders of any kind; its strength is 0.

    Return None if nothing changes, everything does, or the part that does is small.
    """
    height, width = maps.variance.shape
    edges: list[tuple[int, int]] = []
    for profile in (maps.variance.mean(axis=0), maps.variance.mean(axis=1)):
        changing = np.flatnonzero(profile > max(STILL_VARIANCE, STILL_SHARE * float(np.median(profile))))
        if not len(changing):
            return None
        edges.append((int(changing[0]), int(changing[-1]) + 1))
    (x0, x1), (y0, y1) = edges
    small = x1 - x0 < min_side * width or y1 - y0 < min_side * height
    everything = x0 <= NEAR and y0 <= NEAR and x1 >= width - NEAR and y1 >= height - NEAR
    return None if small or everything else Rectangle(x0, y0, x1, y1, 0.0)
