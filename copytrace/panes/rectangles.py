"""Rectangles whose sides are lasting straight edges: panes of split screens, framed videos and fixed insets.

They are found in maps of what keeps its place while a video plays: straight edges of each frame, and how much each
pixel changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.videos import PaneSettings
from copytrace.errors import InputError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SHORT_SIDE = 200  # pixels, about; frames are reduced by a whole divisor, which keeps a seam between two pixels sharp
ALONG = 7  # pixels along the line over which signed gradients are averaged; an uneven edge cancels out
ACROSS = 17  # pixels across the line within which it must stand out
FLOOR = 2.0  # gray levels of gradient that count as none
FLAT = 3.0  # gray levels; a pixel that differs less from its neighbors is plain surface
FULL = 255  # stored value of evidence 1
CHANGED = 16.0  # mean gray levels of difference from the frame before at which a frame is all new
REPEATED = 0.05  # weight of a frame that shows nothing new

Indices = NDArray[np.intp]

LINES = 24  # straight lines kept per direction, besides the two borders
PARTS = 6  # parts into which a side is divided
WEAKEST = 4  # parts whose mean is the strength of a side; text over the others matters little
LINE_SHARES = (0.16, 0.33, 0.66, 1.0)  # shares of the frame over which a line may run
NEAR = 2  # pixels of the reduced frame within which two lines are one
CUT_MARGIN = 4  # pixels of the reduced frame by which a line inside a rectangle is away from its sides
CUT_SHARE = 0.75  # of the weakest side's strength; a stronger line inside cuts the rectangle in two
FEW_PENALTY = 0.1  # share of the missing strength that a single frame needs in addition
CANDIDATES = 512  # rectangles per window that are compared with one another, the strongest
RECTANGLES = 64  # distinct rectangles kept of them
SAME_IOU = 0.85  # two rectangles that overlap by more than this show the same
SAME_SIDES_IOU = 0.96  # two rectangles that overlap by more than this have the same sides
PLAIN_SHARE = 0.97  # a rectangle with more plain surface than this is a border, not a picture
SEEN_SHARE = 0.2  # of the evidence of a pane's sides at its best; with less, the pane is absent
SMOOTHED = 5  # frames over which the evidence of the sides is averaged
SPARE = 1  # frames before and after those that show its sides in which a pane counts as present


@dataclass(frozen=True, slots=True)
class PaneMaps:
    """Reduced frames of one window and their measurements: N frames of H rows and W columns."""

    frames: Bytes  # [N, H, W, 3] RGB
    level: Bytes  # [N, H + 1, W] evidence 0..255 of a straight edge between rows y - 1 and y; 0 on the borders
    upright: Bytes  # [N, W + 1, H] likewise between columns x - 1 and x, columns first
    news: Floats  # [N] 0..1, difference of each frame from the one before; a still shot counts about once
    plain: Floats  # [H, W] share of frames in which a pixel is plain surface
    variance: Floats  # [H, W] of the gray levels over time, mean of the three channels

    def mean_edges(self, start: int, stop: int) -> tuple[Floats, Floats, float]:
        """Return the mean evidence 0..1 of frames start..stop, [H + 1, W] and [W + 1, H], and the sum of their news."""
        news = self.news[start:stop].copy()
        news[0] = 1.0  # the first frame of a window is all new
        weights = news / (news.sum() * FULL)
        level, upright = (_weighted_sum(edges[start:stop], weights) for edges in (self.level, self.upright))
        return level, upright, float(news.sum())


def measure_maps(frames: Iterable[Bytes]) -> PaneMaps:
    """Reduce frames, uint8 [H, W, 3] of one size, one by one and measure them.

    Memory holds one full frame at a time, so a generator of large frames costs little. Raises `InputError` if there are
    no frames, or if a frame has another shape, type or size.
    """
    reduced: list[Bytes] = []
    level: list[Bytes] = []
    upright: list[Bytes] = []
    news: list[float] = []
    size: tuple[int, ...] = ()
    total = squares = plain = np.zeros(0, np.float32)
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise InputError(
                f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}; convert it to RGB"
            )
        if size and frame.shape != size:
            raise InputError(
                f"frame {len(reduced)} is {list(frame.shape)}, but those before it are {list(size)}; "
                "give frames of one size"
            )
        small = _reduce(frame)
        picture = small.astype(np.float32)
        if not reduced:
            size, total, squares = frame.shape, np.zeros_like(picture), np.zeros_like(picture)
            plain = np.zeros(picture.shape[:2], np.float32)
        total += picture
        squares += picture * picture
        plain += _plain_pixels(small)
        news.append(_difference(small, reduced[-1]) if reduced else 1.0)
        level.append(_straight_edges(picture))
        upright.append(_straight_edges(np.ascontiguousarray(picture.transpose(1, 0, 2))))
        reduced.append(small)
    if not reduced:
        raise InputError("panes cannot be found in a window without frames; give at least one frame")
    mean = total / len(reduced)
    variance = np.maximum(squares / len(reduced) - mean * mean, 0).mean(axis=2)
    return PaneMaps(
        frames=np.stack(reduced),
        level=np.stack(level),
        upright=np.stack(upright),
        news=np.array(news, np.float32),
        plain=np.asarray(plain / len(reduced), np.float32),
        variance=variance,
    )


def _reduce(frame: Bytes) -> Bytes:
    height, width = frame.shape[:2]
    divisor = max(1, round(min(height, width) / SHORT_SIDE))
    if divisor == 1:
        return frame.copy()
    size = (max(1, width // divisor), max(1, height // divisor))
    # The rows and columns that the division leaves over are cut off: less than a pixel of the reduced frame.
    divisible = np.ascontiguousarray(frame[: size[1] * divisor, : size[0] * divisor])
    return np.asarray(cv2.resize(divisible, size, interpolation=cv2.INTER_AREA), np.uint8)


def _difference(frame: Bytes, before: Bytes) -> float:
    return float(np.clip(cv2.absdiff(frame, before).mean() / CHANGED, REPEATED, 1.0))


def _plain_pixels(frame: Bytes) -> NDArray[np.bool_]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    across = cv2.absdiff(gray, cv2.copyMakeBorder(gray[:, :-1], 0, 0, 1, 0, cv2.BORDER_REPLICATE))
    down = cv2.absdiff(gray, cv2.copyMakeBorder(gray[:-1], 1, 0, 0, 0, cv2.BORDER_REPLICATE))
    return np.asarray(cv2.max(across, down) < FLAT, np.bool_)


def _straight_edges(picture: Floats) -> Bytes:
    """Return the evidence of a straight edge between rows a - 1 and a of float32 [A, B, 3]: uint8 [A + 1, B].

    It is 0 on the borders.
    """
    evidence = np.zeros((picture.shape[0] + 1, picture.shape[1]), np.uint8)
    if picture.shape[0] < 2:
        return evidence
    steps = cv2.blur(picture[1:] - picture[:-1], (ALONG, 1), borderType=cv2.BORDER_REPLICATE)
    gradient = np.sqrt(np.einsum("abc,abc->ab", steps, steps))
    around = cv2.blur(gradient, (1, ACROSS), borderType=cv2.BORDER_REPLICATE)
    padded = np.pad(gradient, ((1, 1), (0, 0)))
    ridge = (gradient >= padded[:-2]) & (gradient >= padded[2:])
    standing_out = np.clip(0.5 * gradient / (around + FLOOR) - 0.75, 0.0, 1.0)
    evidence[1:-1] = np.where(ridge, standing_out * FULL, 0)
    return evidence


def _weighted_sum(evidence: Bytes, weights: Floats) -> Floats:
    total = np.zeros(evidence.shape[1:], np.float32)
    for frame, weight in zip(evidence, weights, strict=True):
        total += weight * frame
    return total


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle in pixels of the reduced frame, x0 < x1 and y0 < y1, with the evidence 0..1 of its weakest side."""

    x0: int
    y0: int
    x1: int
    y1: int
    strength: float

    def iou(self, other: Rectangle) -> float:
        """Return the intersection over union, 0..1."""
        wide = min(self.x1, other.x1) - max(self.x0, other.x0)
        tall = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(wide, 0) * max(tall, 0)
        return shared / (self.area + other.area - shared)

    @property
    def area(self) -> int:
        """Area in pixels of the reduced frame."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Candidate lines of one direction; the first and the last are the frame's borders."""

    at: Indices  # [L] position across
    running: Floats  # [L, length + 1] cumulative evidence along the line

    def sides(self, start: Indices, stop: Indices) -> Floats:
        """Return the strength [L, P] of every line between P pairs of positions; 1 on the borders."""
        cuts = np.linspace(start, stop, PARTS + 1).round().astype(np.intp)  # [PARTS + 1, P]
        parts = np.diff(self.running[:, cuts], axis=1) / np.maximum(np.diff(cuts, axis=0), 1)
        strength = np.sort(parts, axis=1)[:, :WEAKEST].mean(axis=1)
        strength[[0, -1]] = 1.0
        return np.asarray(strength, np.float32)


def find_rectangles(maps: PaneMaps, start: int, stop: int, settings: PaneSettings) -> list[Rectangle]:
    """Return the rectangles in frames start..stop, strongest first, without repeats and without the whole frame.

    Every side is a border of the frame or at least `settings.min_strength` strong; fewer different frames need more.
    `settings.min_side` and `settings.max_aspect` bound the sides.
    """
    level, upright, news = maps.mean_edges(start, stop)
    height, width = maps.frames.shape[1:3]
    rows, columns = _candidate_lines(level), _candidate_lines(upright)
    needed = settings.min_strength + (1 - settings.min_strength) * FEW_PENALTY / max(news, 1.0)
    (q0, q1), (p0, p1) = _pairs(columns, width, settings.min_side), _pairs(rows, height, settings.min_side)
    if not len(q0) or not len(p0):
        return []
    tall, wide = columns.sides(rows.at[p0], rows.at[p1]), rows.sides(columns.at[q0], columns.at[q1])  # [Lx, P], [Ly, Q]
    weakest = np.minimum(np.minimum(tall[q0], tall[q1]), np.minimum(wide[p0], wide[p1]).T)  # [Q, P]
    x, y = np.nonzero(weakest >= needed)
    framed = (q1 - q0 < len(columns.at) - 1)[x] | (p1 - p0 < len(rows.at) - 1)[y]
    x, y = x[framed], y[framed]
    strength = weakest[x, y]
    cut = np.maximum(_strongest_cut(columns, tall[:, y], q0[x], q1[x]), _strongest_cut(rows, wide[:, x], p0[y], p1[y]))
    uncut = cut <= np.maximum(CUT_SHARE * strength, needed)
    corners = np.stack([columns.at[q0[x]], rows.at[p0[y]], columns.at[q1[x]], rows.at[p1[y]]], axis=1)
    across, down = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    slim = np.maximum(across, down) > settings.max_aspect * np.minimum(across, down)
    order = [i for i in np.argsort(-strength, kind="stable") if uncut[i] and not slim[i]][:CANDIDATES]
    return _drop_repeats([_rectangle(corners[i], strength[i]) for i in order])[:RECTANGLES]


def merge_rectangles(maps: PaneMaps, rectangles: list[Rectangle]) -> list[tuple[Rectangle, NDArray[np.bool_]]]:
    """Drop plain rectangles and repeats of clearer ones; return the others with masks [N] of their frames.

    The clearest rectangle is strong for long. It also counts as present where only a repeat of it is seen, as when text
    over a seam comes and goes.
    """
    pictures = [one for one in _drop_repeats(rectangles, SAME_SIDES_IOU) if not _is_plain(maps, one)]
    seen = [(one, _frames_present(maps, one)) for one in pictures]
    seen.sort(key=lambda pair: -pair[0].strength * pair[1].mean())
    kept: list[tuple[Rectangle, NDArray[np.bool_]]] = []
    for one, present in seen:
        same = next((index for index, (other, _) in enumerate(kept) if one.iou(other) > SAME_IOU), None)
        if same is None:
            kept.append((one, present))
        else:
            kept[same] = kept[same][0], kept[same][1] | present
    return kept


def _drop_repeats(rectangles: list[Rectangle], iou: float = SAME_IOU) -> list[Rectangle]:
    """Return the rectangles, strongest first, without those that overlap a stronger one by more than `iou`."""
    kept: list[Rectangle] = []
    for rectangle in sorted(rectangles, key=lambda one: -one.strength):
        if all(rectangle.iou(stronger) <= iou for stronger in kept):
            kept.append(rectangle)
    return kept


def _is_plain(maps: PaneMaps, rectangle: Rectangle) -> bool:
    """Return whether the rectangle holds only plain surface: a border or a bar."""
    inside = maps.plain[
        rectangle.y0 + NEAR : max(rectangle.y1 - NEAR, rectangle.y0 + NEAR + 1),
        rectangle.x0 + NEAR : max(rectangle.x1 - NEAR, rectangle.x0 + NEAR + 1),
    ]
    return inside.size == 0 or float(inside.mean()) > PLAIN_SHARE


def _frames_present(maps: PaneMaps, rectangle: Rectangle) -> NDArray[np.bool_]:
    """Return a mask [N] of the frames that show the rectangle's sides, and their neighbors; all True if unclear."""
    sides = [
        _side_evidence(maps.upright, rectangle.x0, rectangle.y0, rectangle.y1),
        _side_evidence(maps.upright, rectangle.x1, rectangle.y0, rectangle.y1),
        _side_evidence(maps.level, rectangle.y0, rectangle.x0, rectangle.x1),
        _side_evidence(maps.level, rectangle.y1, rectangle.x0, rectangle.x1),
    ]
    inner = [side for side in sides if side is not None]
    count = len(maps.frames)
    if not inner or rectangle.strength == 0 or count < SMOOTHED:
        return np.ones(count, np.bool_)
    evidence = np.mean(inner, axis=0)
    window = np.ones(SMOOTHED)
    smooth = np.convolve(evidence, window, "same") / np.convolve(np.ones(count), window, "same")
    present = smooth > SEEN_SHARE * np.quantile(smooth, 0.9)
    return np.convolve(present, np.ones(2 * SPARE + 1), "same") > 0


def _side_evidence(evidence: Bytes, at: int, start: int, stop: int) -> Floats | None:
    """Return the mean evidence 0..1 of one side in each frame [N]; None for a border of the frame."""
    if at in (0, evidence.shape[1] - 1):
        return None
    near = evidence[:, max(at - 1, 0) : at + 2, start:stop].max(axis=1)
    return np.asarray(near.mean(axis=1) / FULL, np.float32)


def _rectangle(corners: Indices, strength: np.float32) -> Rectangle:
    x0, y0, x1, y1 = corners.tolist()
    return Rectangle(x0, y0, x1, y1, float(strength))


def _candidate_lines(evidence: Floats) -> _Lines:
    """Return the `LINES` positions with the most evidence over some share of the frame, and both borders."""
    # Reducing a frame splits the evidence of some seams between two lines.
    shared = evidence.copy()
    shared[1:-1] += 0.5 * (evidence[:-2] + evidence[2:])
    running = np.pad(np.cumsum(np.minimum(shared, 1), axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    length = evidence.shape[1]
    strength = np.zeros(len(evidence), np.float32)
    for share in LINE_SHARES:
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
    """Return the strength [M] of the strongest line between each of M pairs; `strength` [L, M] is of every line."""
    across = lines.at[:, None]
    inside = (across > lines.at[first] + CUT_MARGIN) & (across < lines.at[second] - CUT_MARGIN)
    cuts: Floats = np.where(inside, strength, np.float32(0)).max(axis=0)
    return cuts
