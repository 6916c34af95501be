"""Detection of pasted pictures by their edges: four straight lines, a pixel thin, that stop at the corners."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import InputError

Indices = NDArray[np.intp]

RULES = "edges-1"  # change it whenever the boxes of a picture change: indexes made under other rules are obsolete

# Sizes are in pixels of the reduced picture.
LONG_SIDE = 320  # a paste of 12 % of the side then has 38 pixels
SHORTEST_SIDE = 12  # of a rectangle; the edges of smaller ones are chance
ALONG = 7  # gradients are averaged along the line with their sign, so that an irregular edge cancels out
ACROSS = 17  # width of the surroundings that a line must stand out from
FLOOR = 2.0  # gray levels of gradient that count as nothing
WINDOWS = (12, 24, 48, 96, 192)  # lengths at which a line may be straight
CORNER = 20  # length over which a side must be visible before a corner, and must not be visible beyond it
CUT_MARGIN = 5  # a line this near to a side is part of the frame, not a cut through the rectangle
FLAT = 3.0  # Sobel response, in gray levels, under which a pixel is plain surface
MOSTLY_FLAT = 0.9  # share of such pixels above which a rectangle is a panel, not a picture

LINES = 28  # straight lines kept per direction, in addition to the two borders
RECTANGLES = 256  # rectangles kept by their sides and corners, for the full model
BOXES = 10  # returned at most
SAME_BOX_IOU = 0.7  # two boxes that overlap more than this crop the same picture
CERTAIN = 0.9  # above this confidence a rectangle suppresses its parts, which share three sides with it
SAME_SIDE = 0.012  # largest distance of two sides that are the same, as a share of the picture

# Logistic model of a rectangle's evidence. It was fitted on 209 queries with a photo pasted onto another and on 414
# without, made by `copytrace.synthesis.edited_set` from separate photos, half mildly and half strongly edited. First
# the odds of the right rectangle among all those of its query (or of none) were fitted, then the scale: the best box of
# a query is right with probability `confidence` if half of the queries hold a paste. The odds are multiplied by four,
# as a missed copy costs more than a needless crop.
WEIGHTS = {
    "mean evidence of the sides inside the picture": 2.69,
    "one side on the border": -1.95,
    "two sides on the border": -2.47,
    "three sides on the border": -2.39,
    "mean evidence on the arms of the corners": 4.20,
    "mean evidence beyond the corners": -10.42,
    "squared logarithm of the share of the picture": -0.14,
    "logarithm of the normalized aspect, unsigned": -0.78,
    "share of plain surface inside": -4.00,
    "evidence of a cut from side to side": -1.77,
}
OFFSET = -0.70
FLAT_SHARE = list(WEIGHTS).index("share of plain surface inside")


@dataclass(frozen=True, slots=True)
class _Lines:
    """Candidate lines of one direction, and the evidence of straight edges along them."""

    positions: Indices  # [N] across; the first and the last are the picture's borders
    cumulative: Floats  # [N, length + 1] evidence summed along the line

    def mean_between(self, start: Indices, stop: Indices) -> Floats:
        """Return the mean evidence [N, P] of every line between P pairs of positions; 0 on the borders."""
        evidence = self.cumulative[:, stop] - self.cumulative[:, start]
        return (evidence / (stop - start)).astype(np.float32)

    def strongest_inside(self, start: Indices, stop: Indices, low: Indices, high: Indices) -> Floats:
        """Return the evidence [R] of the strongest line through each of R rectangles, low..high by start..stop."""
        across = self.positions[:, None]
        inside = (across > low + CUT_MARGIN) & (across < high - CUT_MARGIN)
        cuts: Floats = np.where(inside, self.mean_between(start, stop), np.float32(-0.5)).max(axis=0)
        return cuts

    def mean_beside(self, crossings: Indices) -> tuple[Floats, Floats]:
        """Return the mean evidence, each [N, M], of every line in `CORNER` pixels before and after M crossings."""
        length = self.cumulative.shape[1] - 1
        here = self.cumulative[:, crossings]
        before = here - self.cumulative[:, np.maximum(crossings - CORNER, 0)]
        after = self.cumulative[:, np.minimum(crossings + CORNER, length)] - here
        return before / np.float32(CORNER), after / np.float32(CORNER)


@dataclass(frozen=True, slots=True)
class _Rectangles:
    """R rectangles between candidate lines, and the evidence for them."""

    corners: Indices  # [R, 4] x0, y0, x1, y1
    sides: Floats  # [R] sum of the mean evidence of the four sides; a side on the border has none
    arms: Floats  # [R] sum of the evidence on the two arms of every corner
    beyond: Floats  # [R] sum of the evidence on the continuation of these arms
    cut: Floats  # [R] evidence of the strongest line that cuts the rectangle from side to side


def find_pasted_rectangles(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], Floats]:
    """Find upright pasted rectangles in uint8 [H, W, 3] RGB, also at its border, and photos inside uniform frames.

    Returns x0, y0, x1, y1 as shares of the sides, float64 [N, 4], and confidences 0..1, float32 [N]: at most 10, best
    first. Raises `InputError` for another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise InputError(f"pixels are {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 3] RGB")
    small = _reduce(pixels)
    height, width = small.shape[:2]
    if min(height, width) < SHORTEST_SIDE:
        return np.zeros((0, 4)), np.zeros(0, np.float32)
    columns = _candidate_lines(_line_evidence(np.ascontiguousarray(small.transpose(1, 0, 2))))
    rows = _candidate_lines(_line_evidence(small))
    rectangles = _likely_rectangles(columns, rows)
    confidence = _confidence(_features(rectangles, small))
    corners = rectangles.corners / np.array([width, height, width, height])
    kept = _suppress_repeats(corners, confidence)
    return corners[kept], confidence[kept]


def _reduce(pixels: NDArray[np.uint8]) -> Floats:
    height, width = pixels.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


def _line_evidence(picture: Floats) -> Floats:
    """Return evidence -0.5..1 of an edge between rows a - 1 and a of [A, B, 3], as [A + 1, B]; 0 on the borders."""
    steps = cv2.blur(picture[1:] - picture[:-1], (ALONG, 1), borderType=cv2.BORDER_REFLECT)
    gradient = np.sqrt(np.einsum("abc,abc->ab", steps, steps))
    level = cv2.blur(gradient, (1, ACROSS), borderType=cv2.BORDER_REFLECT)
    padded = np.pad(gradient, ((1, 1), (0, 0)))
    ridge = (gradient >= padded[:-2]) & (gradient >= padded[2:])
    prominence = np.clip(0.5 * gradient / (level + FLOOR) - 0.75, -0.5, 1.0)
    return np.pad(np.where(ridge, prominence, np.float32(-0.5)), ((1, 1), (0, 0)))


def _candidate_lines(evidence: Floats) -> _Lines:
    """Return the `LINES` positions with the most evidence in their best window, of any length, and both borders."""
    cumulative = np.pad(np.cumsum(evidence, axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    strength = np.zeros(len(evidence), np.float32)
    for window in WINDOWS:
        if window <= evidence.shape[1]:
            best = (cumulative[:, window:] - cumulative[:, :-window]).max(axis=1)
            strength = np.maximum(strength, best / np.sqrt(window))
    padded = np.pad(strength, 1)
    strength[(strength < padded[:-2]) | (strength < padded[2:])] = 0
    strength[[0, -1]] = 0
    kept = np.argsort(-strength, kind="stable")[:LINES]
    kept = np.sort(kept[strength[kept] > 0])
    positions = np.concatenate([[0], kept, [len(evidence) - 1]]).astype(np.intp)
    return _Lines(positions, cumulative[positions])


def _pairs(lines: _Lines) -> tuple[Indices, Indices]:
    first, second = np.triu_indices(len(lines.positions), 1)
    apart = lines.positions[second] - lines.positions[first] >= SHORTEST_SIDE
    return first[apart], second[apart]


def _likely_rectangles(columns: _Lines, rows: _Lines) -> _Rectangles:
    """Return the `RECTANGLES` best of all rectangles between two columns (Q pairs) and two rows (P pairs), unordered.

    They are ranked by hand-tuned sums, in which the weakest side counts twice.
    """
    (q0, q1), (p0, p1) = _pairs(columns), _pairs(rows)
    upright = columns.mean_between(rows.positions[p0], rows.positions[p1])
    level = rows.mean_between(columns.positions[q0], columns.positions[q1])
    left, right, top, bottom = upright[q0], upright[q1], level[p0].T, level[p1].T
    sides = left + right + top + bottom
    score = sides + np.minimum(np.minimum(left, right), np.minimum(top, bottom))
    corners = _corner_evidence(columns, rows)
    for (arms, beyond), (i, j) in zip(corners, ((q0, p0), (q1, p0), (q0, p1), (q1, p1)), strict=True):
        score += (0.25 * (arms - beyond))[i][:, j]
    score += _prior(columns, q0, q1)[:, None] + _prior(rows, p0, p1)
    whole_picture = np.ix_(q1 - q0 == len(columns.positions) - 1, p1 - p0 == len(rows.positions) - 1)
    score[whole_picture] = -np.inf
    q, p = np.unravel_index(_largest(score, RECTANGLES), score.shape)
    i0, i1, j0, j1 = q0[q], q1[q], p0[p], p1[p]
    x0, x1, y0, y1 = columns.positions[i0], columns.positions[i1], rows.positions[j0], rows.positions[j1]
    crossings = ((i0, j0), (i1, j0), (i0, j1), (i1, j1))
    evidence = [(arms[at], beyond[at]) for (arms, beyond), at in zip(corners, crossings, strict=True)]
    return _Rectangles(
        corners=np.stack([x0, y0, x1, y1], axis=1),
        sides=sides[q, p],
        arms=np.sum([arms for arms, _ in evidence], axis=0),
        beyond=np.sum([beyond for _, beyond in evidence], axis=0),
        cut=np.maximum(columns.strongest_inside(y0, y1, x0, x1), rows.strongest_inside(x0, x1, y0, y1)),
    )


def _prior(lines: _Lines, first: Indices, second: Indices) -> Floats:
    """Return the prior score [P] of pairs of lines by distance and borders: distant pairs are rarer by chance."""
    borders = (first == 0).astype(np.float32) + (second == len(lines.positions) - 1)
    return np.asarray(0.15 * np.log(lines.positions[second] - lines.positions[first]) - 0.1 * borders, np.float32)


def _largest(score: Floats, count: int) -> Indices:
    flat = score.ravel()
    largest: Indices = np.argpartition(flat, -count)[-count:] if len(flat) > count else np.arange(len(flat))
    finite: Indices = largest[np.isfinite(flat[largest])]
    return finite


def _corner_evidence(columns: _Lines, rows: _Lines) -> list[tuple[Floats, Floats]]:
    """Return the evidence on the two arms of a corner and on their continuation, each [N, M], for the four corners.

    The corner of N columns and M rows is in turn the upper left, upper right, lower left and lower right one.
    """
    up, down = columns.mean_beside(rows.positions)
    west, east = (part.T for part in rows.mean_beside(columns.positions))
    arms = ((down, east), (down, west), (up, east), (up, west))
    beyond = ((up, west), (up, east), (down, west), (down, east))
    return [
        (y + x, np.maximum(over_y, 0) + np.maximum(over_x, 0))
        for (y, x), (over_y, over_x) in zip(arms, beyond, strict=True)
    ]


def _features(rectangles: _Rectangles, picture: Floats) -> Floats:
    """Return the features of rectangles, float32 [R, 10], in the order of `WEIGHTS`."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = rectangles.corners.T
    borders = np.sum([x0 == 0, x1 == width, y0 == 0, y1 == height], axis=0)
    wide, tall = np.log((x1 - x0) / width), np.log((y1 - y0) / height)
    features = (
        rectangles.sides / (4 - borders),
        borders == 1,
        borders == 2,
        borders == 3,
        rectangles.arms / 8,
        rectangles.beyond / 8,
        np.square(wide + tall),
        np.abs(wide - tall),
        _flat_share(rectangles.corners, picture),
        rectangles.cut,
    )
    return np.stack(features, axis=1).astype(np.float32)


def _flat_share(corners: Indices, picture: Floats) -> Floats:
    """Return the share of plain surface inside each rectangle, 0..1, float32 [R], without its outermost two pixels."""
    gray = picture.mean(axis=2)
    gradient = np.abs(cv2.Sobel(gray, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    table = cv2.integral((gradient < FLAT).astype(np.uint8))
    x0, y0, x1, y1 = (corners + np.array([2, 2, -2, -2])).T
    flat = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return np.asarray(flat / ((x1 - x0) * (y1 - y0)), np.float32)


def _confidence(features: Floats) -> Floats:
    """Return the logistic model of `_features`, float32 [R], 0..1; plain panels get 0."""
    score = features @ np.array(list(WEIGHTS.values()), np.float32) + OFFSET
    confidence = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
    return np.where(features[:, FLAT_SHARE] > MOSTLY_FLAT, 0, confidence).astype(np.float32)


def _suppress_repeats(corners: NDArray[np.float64], confidence: Floats) -> list[int]:
    """Return indices of the best boxes, best first, without repeats of better boxes and parts of certain ones."""
    kept: list[int] = []
    x0, y0, x1, y1 = corners.T
    area = (x1 - x0) * (y1 - y0)
    left = confidence > 0
    for i in np.argsort(-confidence, kind="stable"):
        if not left[i]:
            continue
        kept.append(int(i))
        if len(kept) == BOXES:
            break
        wide = np.clip(np.minimum(x1, x1[i]) - np.maximum(x0, x0[i]), 0, None)
        tall = np.clip(np.minimum(y1, y1[i]) - np.maximum(y0, y0[i]), 0, None)
        left &= wide * tall <= SAME_BOX_IOU * (area + area[i] - wide * tall)
        if confidence[i] > CERTAIN:
            left &= (np.abs(corners - corners[i]) < SAME_SIDE).sum(axis=1) < 3
    return kept
