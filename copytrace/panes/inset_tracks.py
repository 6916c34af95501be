"""Insets of a window of frames: the boxes of an overlay detector, joined over time into tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.videos import PaneSettings
from copytrace.overlays.detectors import Box, OverlayDetector
from copytrace.panes.maps import Bytes, Floats

SAME_INSET_IOU = 0.4  # two boxes in successive frames searched are one inset; it may move in between
STILL_IOU = 0.8  # a track is still if all its boxes overlap their median by more than this
SHAPE_CHANGE = 1.35  # largest ratio between the sides of a moving inset's box and of the box before
GAP = 2  # frames searched in a row in which the detector may miss an inset
LARGEST = 0.9  # share of the frame; a larger box is the frame itself
KNOWN_IOU = 0.6  # a box that overlaps a known pane by more than this is that pane


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
    boxes = {int(frame): _detect_unknown(frames, detector, known, int(frame), settings) for frame in searched}
    tracks = _build_tracks(boxes, settings.min_share)
    if len(searched) < count and any(track.moves for track in tracks):
        for frame in set(range(count)) - boxes.keys():
            boxes[frame] = _detect_unknown(frames, detector, known, frame, settings)
        tracks = _build_tracks(boxes, settings.min_share)
    return [_interpolate_track(track, np.array(sorted(boxes)), count) for track in tracks]


def _detect_unknown(
    frames: Bytes, detector: OverlayDetector, known: list[Floats], frame: int, settings: PaneSettings
) -> list[Box]:
    panes = [_box(boxes[frame]) for boxes in known if not np.isnan(boxes[frame, 0])]
    return [
        box
        for box in detector.detect(frames[frame])
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
