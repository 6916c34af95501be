"""Pasted pictures found by their edges: four straight lines, a pixel thin, that stop at the corners."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.overlays.boxes import SAME_BOX_IOU, Box

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

# Sizes are in pixels of the small picture.
LONG_SIDE = 320  # a paste of 12 % of the side is still 38 of them
SHORTEST_SIDE = 12  # of a rectangle: below it four edges say nothing
ALONG = 7  # gradients are averaged along the line, with their sign: a wiggling edge cancels out
ACROSS = 17  # a line must stand out among its neighbours this wide
FLOOR = 2.0  # grey levels of gradient that count as nothing
WINDOWS = (12, 24, 48, 96, 192)  # lengths at which a line may be straight
CORNER = 20  # before a corner a side must be seen this long, and beyond it must not
CUT_MARGIN = 5  # a line this near to a side is its frame, and not a cut through the rectangle
FLAT = 3.0  # Sobel response, in grey levels, under which a pixel is plain surface
MOSTLY_FLAT = 0.9  # share of such pixels over which a rectangle is a panel and no picture

LINES = 28  # straight lines kept per direction, next to the two borders
RECTANGLES = 256  # kept by their sides and corners alone, to be looked at closely
BOXES = 10  # returned at most
CERTAIN = 0.9  # a rectangle over this confidence takes its own parts, which share three sides with it, off the list
SAME_SIDE = 0.012  # share of the picture by which one side may be off

# Logistic model of a rectangle's evidence, fitted on 209 queries with a photo pasted onto another and 414 without,
# made by `copytrace.training.edited_set` from photos of its own, half mildly and half strongly edited: first the odds
# of the right rectangle among all of its query (or of none), then a scale on which the best box of a query is right
# with probability `confidence` where half of the queries hold a paste, and where, as a missed copy costs more than a
# needless crop, the odds count four times.
WEIGHTS = {
    "mean evidence of the sides inside the picture": 2.69,
    "one side on the border": -1.95,
    "two sides on the border": -2.47,
    "three sides on the border": -2.39,
    "mean evidence on the arms of the corners": 4.20,
    "mean evidence beyond the corners": -10.42,
    "squared logarithm of the share of the picture": -0.14,
    "logarithm of the normalised aspect, unsigned": -0.78,
    "share of plain surface inside": -4.00,
    "evidence of a cut from side to side": -1.77,
}
OFFSET = -0.70
FLAT_SHARE = list(WEIGHTS).index("share of plain surface inside")


@dataclass(frozen=True, slots=True)
class _Lines:
    """Candidate lines of one direction, and how much straight edge lies along them."""

    at: Indices  # [N] position across; the first and the last are the picture's borders
    running: Floats  # [N, length + 1] evidence summed along the line

    def mean_between(self, start: Indices, stop: Indices) -> Floats:
        """Mean evidence [N, P] of every line between P pairs of positions; 0 on the borders."""
        evidence = self.running[:, stop] - self.running[:, start]
        return (evidence / (stop - start)).astype(np.float32)

    def strongest_inside(self, start: Indices, stop: Indices, low: Indices, high: Indices) -> Floats:
        """Evidence [R] of the line that best cuts each of R rectangles, low..high across and start..stop along."""
        across = self.at[:, None]
        inside = (across > low + CUT_MARGIN) & (across < high - CUT_MARGIN)
        cuts: Floats = np.where(inside, self.mean_between(start, stop), np.float32(-0.5)).max(axis=0)
        return cuts

    def mean_beside(self, crossings: Indices) -> tuple[Floats, Floats]:
        """Mean evidence, each [N, M], of every line in the `CORNER` pixels before and after M crossings."""
        length = self.running.shape[1] - 1
        here = self.running[:, crossings]
        before = here - self.running[:, np.maximum(crossings - CORNER, 0)]
        after = self.running[:, np.minimum(crossings + CORNER, length)] - here
        return before / np.float32(CORNER), after / np.float32(CORNER)


@dataclass(frozen=True, slots=True)
class _Rectangles:
    """R rectangles between candidate lines, and what their lines show."""

    corners: Indices  # [R, 4] x0, y0, x1, y1
    sides: Floats  # [R] mean evidence of the four sides, summed; a side on the border has none
    within: Floats  # [R] evidence on the two arms of every corner, summed
    beyond: Floats  # [R] evidence on the continuation of these arms, summed
    cut: Floats  # [R] evidence of the line that best cuts the rectangle from side to side


class EdgeOverlayDetector:
    """Finds upright pasted rectangles, also at the border of a picture, and photos inside uniform frames."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of this file: any change of the rules is another detector."""
        return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]

    def detect(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """Find the pictures inside uint8 [H, W, 3] RGB: at most 10 boxes, best first.

        Raises `InputError` for another shape or type.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise InputError(f"pixels are {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 3] RGB")
        small = _shrunk(pixels)
        height, width = small.shape[:2]
        if min(height, width) < SHORTEST_SIDE:
            return []
        columns = _candidate_lines(_line_evidence(np.ascontiguousarray(small.transpose(1, 0, 2))))
        rows = _candidate_lines(_line_evidence(small))
        found = _likely_rectangles(columns, rows)
        confidence = _confidence(_features(found, small))
        corners = found.corners / np.array([width, height, width, height])
        kept = _without_repeats(corners, confidence)
        x0, y0, x1, y1 = corners.T
        return [Box(float(x0[i]), float(y0[i]), float(x1[i]), float(y1[i]), float(confidence[i])) for i in kept]


def _shrunk(pixels: NDArray[np.uint8]) -> Floats:
    height, width = pixels.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


def _line_evidence(picture: Floats) -> Floats:
    """Straight-edge evidence -0.5..1 of float32 [A, B, 3] between rows a - 1 and a, as [A + 1, B]; 0 on the borders."""
    steps = cv2.blur(picture[1:] - picture[:-1], (ALONG, 1), borderType=cv2.BORDER_REFLECT)
    gradient = np.sqrt(np.einsum("abc,abc->ab", steps, steps))
    level = cv2.blur(gradient, (1, ACROSS), borderType=cv2.BORDER_REFLECT)
    padded = np.pad(gradient, ((1, 1), (0, 0)))
    ridge = (gradient >= padded[:-2]) & (gradient >= padded[2:])
    standing_out = np.clip(0.5 * gradient / (level + FLOOR) - 0.75, -0.5, 1.0)
    return np.pad(np.where(ridge, standing_out, np.float32(-0.5)), ((1, 1), (0, 0)))


def _candidate_lines(evidence: Floats) -> _Lines:
    """The `LINES` positions whose best window, of any length, holds most edge, and both borders."""
    running = np.pad(np.cumsum(evidence, axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    strength = np.zeros(len(evidence), np.float32)
    for window in WINDOWS:
        if window <= evidence.shape[1]:
            best = (running[:, window:] - running[:, :-window]).max(axis=1)
            strength = np.maximum(strength, best / np.sqrt(window))
    padded = np.pad(strength, 1)
    strength[(strength < padded[:-2]) | (strength < padded[2:])] = 0
    strength[[0, -1]] = 0
    kept = np.argsort(-strength, kind="stable")[:LINES]
    kept = np.sort(kept[strength[kept] > 0])
    at = np.concatenate([[0], kept, [len(evidence) - 1]]).astype(np.intp)
    return _Lines(at, running[at])


def _pairs(lines: _Lines) -> tuple[Indices, Indices]:
    first, second = np.triu_indices(len(lines.at), 1)
    apart = lines.at[second] - lines.at[first] >= SHORTEST_SIDE
    return first[apart], second[apart]


def _likely_rectangles(columns: _Lines, rows: _Lines) -> _Rectangles:
    """The `RECTANGLES` best of all rectangles between two columns (Q pairs) and two rows (P pairs), unordered.

    They are ranked by sums that were tried by hand: the weakest side counts twice.
    """
    (q0, q1), (p0, p1) = _pairs(columns), _pairs(rows)
    upright = columns.mean_between(rows.at[p0], rows.at[p1])
    level = rows.mean_between(columns.at[q0], columns.at[q1])
    left, right, top, bottom = upright[q0], upright[q1], level[p0].T, level[p1].T
    sides = left + right + top + bottom
    score = sides + np.minimum(np.minimum(left, right), np.minimum(top, bottom))
    corners = _corner_evidence(columns, rows)
    for (within, beyond), (i, j) in zip(corners, ((q0, p0), (q1, p0), (q0, p1), (q1, p1)), strict=True):
        score += (0.25 * (within - beyond))[i][:, j]
    score += _prior(columns, q0, q1)[:, None] + _prior(rows, p0, p1)
    score[np.ix_(q1 - q0 == len(columns.at) - 1, p1 - p0 == len(rows.at) - 1)] = -np.inf  # the whole picture
    q, p = np.unravel_index(_largest(score, RECTANGLES), score.shape)
    i0, i1, j0, j1 = q0[q], q1[q], p0[p], p1[p]
    x0, x1, y0, y1 = columns.at[i0], columns.at[i1], rows.at[j0], rows.at[j1]
    evidence = [
        (arms[at], over[at]) for (arms, over), at in zip(corners, ((i0, j0), (i1, j0), (i0, j1), (i1, j1)), strict=True)
    ]
    return _Rectangles(
        corners=np.stack([x0, y0, x1, y1], axis=1),
        sides=sides[q, p],
        within=np.sum([arms for arms, _ in evidence], axis=0),
        beyond=np.sum([over for _, over in evidence], axis=0),
        cut=np.maximum(columns.strongest_inside(y0, y1, x0, x1), rows.strongest_inside(x0, x1, y0, y1)),
    )


def _prior(lines: _Lines, first: Indices, second: Indices) -> Floats:
    """What a pair of lines is worth by its distance and its borders [P]: large is rarer by chance."""
    borders = (first == 0).astype(np.float32) + (second == len(lines.at) - 1)
    return np.asarray(0.15 * np.log(lines.at[second] - lines.at[first]) - 0.1 * borders, np.float32)


def _largest(score: Floats, count: int) -> Indices:
    flat = score.ravel()
    largest: Indices = np.argpartition(flat, -count)[-count:] if len(flat) > count else np.arange(len(flat))
    finite: Indices = largest[np.isfinite(flat[largest])]
    return finite


def _corner_evidence(columns: _Lines, rows: _Lines) -> list[tuple[Floats, Floats]]:
    """Evidence on a corner's two arms, and on their continuation beyond it, each [N, M].

    For each of N columns and M rows, as the upper left, upper right, lower left and lower right corner.
    """
    up, down = columns.mean_beside(rows.at)
    west, east = (part.T for part in rows.mean_beside(columns.at))
    arms = ((down, east), (down, west), (up, east), (up, west))
    beyond = ((up, west), (up, east), (down, west), (down, east))
    return [
        (y + x, np.maximum(over_y, 0) + np.maximum(over_x, 0))
        for (y, x), (over_y, over_x) in zip(arms, beyond, strict=True)
    ]


def _features(found: _Rectangles, picture: Floats) -> Floats:
    """What tells a paste from chance, float32 [R, 10], in the order of `WEIGHTS`."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = found.corners.T
    borders = np.sum([x0 == 0, x1 == width, y0 == 0, y1 == height], axis=0)
    wide, tall = np.log((x1 - x0) / width), np.log((y1 - y0) / height)
    features = (
        found.sides / (4 - borders),
        borders == 1,
        borders == 2,
        borders == 3,
        found.within / 8,
        found.beyond / 8,
        np.square(wide + tall),
        np.abs(wide - tall),
        _flat_share(found.corners, picture),
        found.cut,
    )
    return np.stack(features, axis=1).astype(np.float32)


def _flat_share(corners: Indices, picture: Floats) -> Floats:
    """Share of plain surface inside each rectangle, 0..1, float32 [R]; the outermost two pixels are its edges."""
    grey = picture.mean(axis=2)
    gradient = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    table = cv2.integral((gradient < FLAT).astype(np.uint8))
    x0, y0, x1, y1 = (corners + np.array([2, 2, -2, -2])).T
    flat = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return np.asarray(flat / ((x1 - x0) * (y1 - y0)), np.float32)


def _confidence(features: Floats) -> Floats:
    """Logistic model over `_features`, float32 [R], 0..1; plain panels get 0."""
    score = features @ np.array(list(WEIGHTS.values()), np.float32) + OFFSET
    confidence = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
    return np.where(features[:, FLAT_SHARE] > MOSTLY_FLAT, 0, confidence).astype(np.float32)


def _without_repeats(corners: NDArray[np.float64], confidence: Floats) -> list[int]:
    """Indices of the best boxes, best first, without repeats of a better one and without parts of a certain one."""
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
