"""Rectangles whose sides are straight edges that stay: the panes of a split screen, framed videos, fixed insets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.panes.maps import FULL, Bytes, Floats, PaneMaps

Indices = NDArray[np.intp]

LINES = 24  # straight lines kept per direction, next to the two borders
PARTS = 6  # a side is looked at in as many parts
WEAKEST = 4  # and is as strong as the mean of its weakest parts: text over some of it matters little
STRETCHES = (0.16, 0.33, 0.66, 1.0)  # shares of the frame over which a line may run
NEAR = 2  # pixels of the reduced frame within which two lines are one
CUT_MARGIN = 4  # pixels of the reduced frame by which a line is inside a rectangle, and not its side
CUT_SHARE = 0.75  # a rectangle falls apart along a line inside that is this strong, measured by its weakest side
FEW_PENALTY = 0.1  # share of the missing strength that a single frame must show in addition
CANDIDATES = 512  # rectangles per window that are compared with one another, strongest first
RECTANGLES = 64  # different ones kept of them
SAME_IOU = 0.85  # two rectangles that overlap more than this show the same
SAME_SIDES_IOU = 0.96  # and more than this have the same sides
PLAIN_SHARE = 0.97  # a rectangle with more plain surface than this is a border and no picture
STILL_VARIANCE = 4.0  # squared grey levels that compression alone may cause
STILL_SHARE = 0.02  # of the median variance: a row or column that changes less is still
SEEN_SHARE = 0.2  # of how clearly a pane's sides are seen at its best, under which it is not there
SMOOTHED = 5  # frames over which the sides are averaged to tell when a pane is there
SPARE = 1  # frame by which a pane is kept longer on either side than its lines are seen


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Pixels of the reduced frame, x0 < x1 and y0 < y1, and the evidence 0..1 of its weakest side."""

    x0: int
    y0: int
    x1: int
    y1: int
    strength: float

    def iou(self, other: Rectangle) -> float:
        """Intersection over union, 0..1."""
        wide = min(self.x1, other.x1) - max(self.x0, other.x0)
        tall = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(wide, 0) * max(tall, 0)
        return shared / (self.area + other.area - shared)

    @property
    def area(self) -> int:
        """Pixels of the reduced frame."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Candidate lines of one direction; the first and the last are the frame's borders."""

    at: Indices  # [L] position across
    running: Floats  # [L, length + 1] evidence summed along the line

    def sides(self, start: Indices, stop: Indices) -> Floats:
        """Strength [L, P] of every line between P pairs of positions; 1 on the borders."""
        cuts = np.linspace(start, stop, PARTS + 1).round().astype(np.intp)  # [PARTS + 1, P]
        parts = np.diff(self.running[:, cuts], axis=1) / np.maximum(np.diff(cuts, axis=0), 1)
        strength = np.sort(parts, axis=1)[:, :WEAKEST].mean(axis=1)
        strength[[0, -1]] = 1.0
        return np.asarray(strength, np.float32)


def find_rectangles(
    maps: PaneMaps, start: int, stop: int, *, min_strength: float, min_side: float, max_aspect: float
) -> list[Rectangle]:
    """Find what frames start..stop show framed, strongest first and without repeats; never the whole frame.

    Every side is a border of the frame or as strong as `min_strength` (0..1), and more so the fewer different frames
    there are. Sides are at least `min_side` of the frame's own; `max_aspect` bounds the longer side by the shorter.
    """
    level, upright, news = maps.between(start, stop)
    height, width = maps.frames.shape[1:3]
    rows, columns = _candidate_lines(level), _candidate_lines(upright)
    needed = min_strength + (1 - min_strength) * FEW_PENALTY / max(news, 1.0)
    (q0, q1), (p0, p1) = _pairs(columns, width, min_side), _pairs(rows, height, min_side)
    if not len(q0) or not len(p0):
        return []
    tall, wide = columns.sides(rows.at[p0], rows.at[p1]), rows.sides(columns.at[q0], columns.at[q1])  # [Lx, P], [Ly, Q]
    weakest = np.minimum(np.minimum(tall[q0], tall[q1]), np.minimum(wide[p0], wide[p1]).T)  # [Q, P]
    x, y = np.nonzero(weakest >= needed)
    framed = (q1 - q0 < len(columns.at) - 1)[x] | (p1 - p0 < len(rows.at) - 1)[y]
    x, y = x[framed], y[framed]
    strength = weakest[x, y]
    cut = np.maximum(_strongest_cut(columns, tall[:, y], q0[x], q1[x]), _strongest_cut(rows, wide[:, x], p0[y], p1[y]))
    whole = cut <= np.maximum(CUT_SHARE * strength, needed)
    corners = np.stack([columns.at[q0[x]], rows.at[p0[y]], columns.at[q1[x]], rows.at[p1[y]]], axis=1)
    across, down = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    slim = np.maximum(across, down) > max_aspect * np.minimum(across, down)
    order = [i for i in np.argsort(-strength, kind="stable") if whole[i] and not slim[i]][:CANDIDATES]
    return _distinct([_rectangle(corners[i], strength[i]) for i in order])[:RECTANGLES]


def moving_box(maps: PaneMaps, *, min_side: float) -> Rectangle | None:
    """Frame the rows and columns that change: what is left when still borders of any kind are taken off.

    None where nothing or everything changes, or where what changes is small. It has strength 0, the weakest there is.
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


def merge_rectangles(maps: PaneMaps, rectangles: list[Rectangle]) -> list[tuple[Rectangle, NDArray[np.bool_]]]:
    """Leave out what repeats a clearer rectangle or is plain, and tell in which frames [N] each of the others is there.

    The clearest is strong for long. Where only its repeat is seen, as text over a seam comes and goes, it is there too.
    """
    looked_at = [one for one in _distinct(rectangles, SAME_SIDES_IOU) if not _is_plain(maps, one)]
    seen = [(one, _seen(maps, one)) for one in looked_at]
    seen.sort(key=lambda pair: -pair[0].strength * pair[1].mean())
    kept: list[tuple[Rectangle, NDArray[np.bool_]]] = []
    for one, there in seen:
        same = next((index for index, (other, _) in enumerate(kept) if one.iou(other) > SAME_IOU), None)
        if same is None:
            kept.append((one, there))
        else:
            kept[same] = kept[same][0], kept[same][1] | there
    return kept


def _distinct(rectangles: list[Rectangle], iou: float = SAME_IOU) -> list[Rectangle]:
    """Leave out what overlaps a stronger rectangle by more than `iou`; strongest first."""
    kept: list[Rectangle] = []
    for rectangle in sorted(rectangles, key=lambda one: -one.strength):
        if all(rectangle.iou(stronger) <= iou for stronger in kept):
            kept.append(rectangle)
    return kept


def _is_plain(maps: PaneMaps, rectangle: Rectangle) -> bool:
    """Tell whether nothing but plain surface was seen there: a border or a bar."""
    inside = maps.plain[
        rectangle.y0 + NEAR : max(rectangle.y1 - NEAR, rectangle.y0 + NEAR + 1),
        rectangle.x0 + NEAR : max(rectangle.x1 - NEAR, rectangle.x0 + NEAR + 1),
    ]
    return inside.size == 0 or float(inside.mean()) > PLAIN_SHARE


def _seen(maps: PaneMaps, rectangle: Rectangle) -> NDArray[np.bool_]:
    """Tell in which frames [N] the rectangle's sides are seen, with a frame to spare, or all where that is unclear."""
    sides = [
        _along(maps.upright, rectangle.x0, rectangle.y0, rectangle.y1),
        _along(maps.upright, rectangle.x1, rectangle.y0, rectangle.y1),
        _along(maps.level, rectangle.y0, rectangle.x0, rectangle.x1),
        _along(maps.level, rectangle.y1, rectangle.x0, rectangle.x1),
    ]
    inner = [side for side in sides if side is not None]
    count = len(maps.frames)
    if not inner or rectangle.strength == 0 or count < SMOOTHED:
        return np.ones(count, np.bool_)
    evidence = np.mean(inner, axis=0)
    window = np.ones(SMOOTHED)
    smooth = np.convolve(evidence, window, "same") / np.convolve(np.ones(count), window, "same")
    there = smooth > SEEN_SHARE * np.quantile(smooth, 0.9)
    return np.convolve(there, np.ones(2 * SPARE + 1), "same") > 0


def _along(evidence: Bytes, at: int, start: int, stop: int) -> Floats | None:
    """Mean evidence 0..1 per frame [N] along one side; None on a border."""
    if at in (0, evidence.shape[1] - 1):
        return None
    near = evidence[:, max(at - 1, 0) : at + 2, start:stop].max(axis=1)
    return np.asarray(near.mean(axis=1) / FULL, np.float32)


def _rectangle(corners: Indices, strength: np.float32) -> Rectangle:
    x0, y0, x1, y1 = corners.tolist()
    return Rectangle(x0, y0, x1, y1, float(strength))


def _candidate_lines(evidence: Floats) -> _Lines:
    """The `LINES` positions that hold most evidence over some stretch, and both borders."""
    # Reduction leaves some seams between two lines, which then share the evidence.
    shared = evidence.copy()
    shared[1:-1] += 0.5 * (evidence[:-2] + evidence[2:])
    running = np.pad(np.cumsum(np.minimum(shared, 1), axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    length = evidence.shape[1]
    strength = np.zeros(len(evidence), np.float32)
    for share in STRETCHES:
        window = max(1, round(share * length))
        best = (running[:, window:] - running[:, :-window]).max(axis=1)
        strength = np.maximum(strength, best / np.sqrt(window))
    strength[: NEAR + 1] = strength[-NEAR - 1 :] = 0
    kept: list[int] = []
    for at in np.argsort(-strength, kind="stable"):
        if len(kept) == LINES or strength[at] <= 0:
            break
        if all(abs(at - other) > NEAR for other in kept):
            kept.append(int(at))
    positions = np.array([0, *sorted(kept), len(evidence) - 1], np.intp)
    return _Lines(positions, running[positions])


def _pairs(lines: _Lines, size: int, min_side: float) -> tuple[Indices, Indices]:
    first, second = np.triu_indices(len(lines.at), 1)
    apart = lines.at[second] - lines.at[first] >= min_side * size
    return first[apart], second[apart]


def _strongest_cut(lines: _Lines, strength: Floats, first: Indices, second: Indices) -> Floats:
    """The strongest line between each of M pairs of lines [M], where `strength` [L, M] is that of every line there."""
    across = lines.at[:, None]
    inside = (across > lines.at[first] + CUT_MARGIN) & (across < lines.at[second] - CUT_MARGIN)
    cuts: Floats = np.where(inside, strength, np.float32(0)).max(axis=0)
    return cuts
