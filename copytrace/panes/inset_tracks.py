"""Insets followed through a window: the boxes of an overlay detector on some frames, joined over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.overlays.boxes import Box, OverlayDetector
from copytrace.panes.maps import Bytes, Floats

SAME_INSET_IOU = 0.4  # of two boxes in neighbouring frames that are looked at: an inset may move in between
STILL_IOU = 0.8  # a track whose boxes all overlap their median more than this does not move
SHAPE_CHANGE = 1.35  # largest ratio of sides by which a moving inset's box may differ from the one before
GAP = 2  # frames looked at in a row in which an inset may be missed and is still there
LARGEST = 0.9  # share of the frame over which a box is the frame itself
KNOWN_IOU = 0.6  # a box that overlaps a pane found before more than this is that pane


@dataclass(frozen=True, slots=True)
class _Track:
    """One inset's boxes by the index of the frame they were found in, in order of time."""

    frames: list[int]
    boxes: list[Box]

    @property
    def typical(self) -> Box:
        """The median of its boxes."""
        corners = [(box.x0, box.y0, box.x1, box.y1) for box in self.boxes]
        return _box(np.median(np.array(corners, np.float32), axis=0))

    @property
    def moves(self) -> bool:
        """Whether some box is elsewhere than the others."""
        return any(self.typical.iou(box) < STILL_IOU for box in self.boxes)


def find_insets(
    frames: Bytes,
    detector: OverlayDetector,
    known: list[Floats],
    *,
    looks: int,
    min_confidence: float,
    min_share: float,
    min_side: float,
) -> list[Floats]:
    """Follow insets through frames uint8 [N, H, W, 3]: boxes float32 [N, 4] in shares, NaN where one is not there.

    The detector looks at `looks` frames at most, evenly spaced, and at all of them when something moves. What overlaps
    the panes `known` already, each [N, 4], is passed over. An inset must be found with `min_confidence` in `min_share`
    of the looks, and twice at least where there are more; the surest comes first. One that keeps its place has one
    box, the median; one that moves has a box of its own for every frame, interpolated where it was missed.
    """
    count = len(frames)
    at = np.unique(np.linspace(0, count - 1, min(looks, count)).round().astype(int))
    boxes = {int(frame): _new_boxes(frames, detector, known, int(frame), min_confidence, min_side) for frame in at}
    tracks = _tracks(boxes, min_share)
    if len(at) < count and any(track.moves for track in tracks):
        for frame in set(range(count)) - boxes.keys():
            boxes[frame] = _new_boxes(frames, detector, known, frame, min_confidence, min_side)
        tracks = _tracks(boxes, min_share)
    return [_followed(track, np.array(sorted(boxes)), count) for track in tracks]


def _new_boxes(
    frames: Bytes, detector: OverlayDetector, known: list[Floats], frame: int, min_confidence: float, min_side: float
) -> list[Box]:
    there = [_box(boxes[frame]) for boxes in known if not np.isnan(boxes[frame, 0])]
    return [
        box
        for box in detector.detect(frames[frame])
        if box.confidence >= min_confidence
        and box.area <= LARGEST
        and min(box.x1 - box.x0, box.y1 - box.y0) >= min_side
        and all(box.iou(pane) < KNOWN_IOU for pane in there)
    ]


def _box(corners: Floats) -> Box:
    x0, y0, x1, y1 = corners.tolist()
    return Box(x0, y0, x1, y1, 1.0)


def _tracks(boxes: dict[int, list[Box]], min_share: float) -> list[_Track]:
    """Join boxes by frame into tracks, and keep those that are seen often enough, the surest first."""
    at = sorted(boxes)
    tracks: list[_Track] = []
    for turn, frame in enumerate(at):
        _join(tracks, boxes[frame], frame, set(at[max(turn - GAP - 1, 0) : turn]))
    needed = max(min_share * len(at), min(2, len(at)))
    return sorted(
        (track for track in tracks if len(track.frames) >= needed),
        key=lambda track: -sum(box.confidence for box in track.boxes),
    )


def _join(tracks: list[_Track], boxes: list[Box], frame: int, recent: set[int]) -> None:
    """Give each box to the track that it continues best, or let it begin one."""
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
    """IoU of two boxes that may be one inset's at two times; for one that moved away, a little if the size is kept."""
    iou = before.iou(box)
    if iou >= SAME_INSET_IOU:
        return iou
    wider = (box.x1 - box.x0) / (before.x1 - before.x0)
    taller = (box.y1 - box.y0) / (before.y1 - before.y0)
    change = max(wider, 1 / wider, taller, 1 / taller)
    return 0.1 * (1 + iou) / change if change <= SHAPE_CHANGE else 0.0


def _followed(track: _Track, at: NDArray[np.int_], count: int) -> Floats:
    if track.moves:
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in track.boxes])
        boxes = np.stack([np.interp(np.arange(count), track.frames, edge) for edge in corners.T], axis=1)
    else:
        box = track.typical
        boxes = np.tile([box.x0, box.y0, box.x1, box.y1], (count, 1))
    boxes = boxes.astype(np.float32)
    # Between the last look without the inset and the first with it nobody knows: it is given the benefit of the doubt.
    before = at[at < track.frames[0]]
    after = at[at > track.frames[-1]]
    boxes[: before[-1] + 1 if len(before) else 0] = np.nan
    boxes[after[0] if len(after) else count :] = np.nan
    return boxes
