"""Comparison of what two aligned pictures show, block by block.

Two filled-in copies of one form agree in its frame and its labels, by their points as by any descriptor; their entries
differ. Laid over each other, a copy agrees wherever it has ink, except where something covers it. Two pictures of one
template have places where the ground is the same and the ink is not, or is in one of them only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Doubles, Floats
from copytrace.features.points import Bytes
from copytrace.matching.blocks import NOISE, block_deviation, block_means, blur, correlate_blocks, to_gray
from copytrace.matching.ground import BLOCK, DRAWN, INK, Bools, flat_ground, same_ground, two_toned_share

SIDE = 480  # shorter side of the reference as it is compared, in pixels; less if the query shows it smaller
QUERY_SIDE = 960  # shorter side of a query, of which the reference may be a part
LEAST_SHOWN, LEAST_SIDE = 24, 64  # side of a reference as a query shows it, and as it is compared if that is less
MOST_PIXELS = 1 << 20  # of a reference as it is compared, if it is a long strip
LONGEST = 32_000  # side of a query, in pixels; OpenCV's warp takes up to 32,767
OFF_GRID = 0.9  # factor of a size at which the cells of a code are just blocks, none of which has any ink

# Refinement of the transform by matches of blocks: at half the size and then at full size.
MATCHED_BLOCK, REACHES = 24, (5, 3)  # pixels of full size, and how far a block is searched, in pixels of each size
MATCHED, FEWEST_MATCHED, OFF = 0.6, 8, 1.5  # least correlation, fewest blocks, largest error in pixels
CORNER = 0.05  # least ratio of a block's two gradients: along a line, a block matches anywhere
LINE = 0.02  # of blocks in which there is a straight line or an edge only, as in rulings, frames and borders of sheets
FARTHEST_MOVED = 0.2  # of the longer side: a larger correction is a mistake

BLURS = ((0.0, 0.0), (0.8, 0.0), (1.6, 0.0), (3.0, 0.0), (0.0, 0.8), (0.0, 1.6))  # of reference and query, in pixels
BLUR_COST = 0.02  # of correlation, for each pixel
REACH = 2  # pixels by which a block may still be displaced
FEWEST_BLOCKS = 6

FAINT, STRONG = 3.0, 10.0  # standard deviation of blocks with nearly no, and with clear ink, in gray levels
ALIKE, BELOW = 0.9, 0.15  # a block agrees if its correlation is at most `BELOW` less than in most blocks, or `ALIKE`
CLEAR, LEAST_CONTRAST = 0.8, 0.05  # correlation of blocks that tell how much contrast an edit has left, and its least
AREA = 3  # blocks of a side
COVER = 4  # blocks of the smallest thing that is taken for a cover
FEWEST_AROUND = 4  # blocks that agree, for a rectangle around them
MOST_AROUND = (2, 98)  # percentiles of their places: beside a crop, some agree by chance


@dataclass(frozen=True, slots=True)
class Content:
    """How the ink of two aligned pictures agrees, where both can be seen.

    `replaced` (0 to 1) is the share of ink that differs, or is in one of the pictures only, on a ground that is the
    same in both; ink in one of them counts as far as there is as much in the other one, since captions are only added.
    `spread` (0 to 1) is the share of areas of `AREA` x `AREA` blocks in which that is so: a caption is in few of them.
    `replaced_inside` and `spread_inside` are the same in the rectangle around the ink that agrees: what lies around a
    crop is no part of a copy. `share` (0 to 1) is that of blocks whose ink agrees, among those that have ink in both.
    """

    replaced: float
    spread: float
    replaced_inside: float
    spread_inside: float
    share: float


def content_columns(content: Content | None) -> dict[str, float | None]:
    """Return the columns of a content in tables of evidence."""
    names = {"share": "agreeing_share"}
    return {
        names.get(each.name, each.name): None if content is None else getattr(content, each.name)
        for each in fields(Content)
    }


def compare_content(
    query: Bytes, reference: Bytes, transform: Doubles, *, negative: bool = False, least_ground: float = DRAWN
) -> Content | None:
    """Compare two pictures, uint8 RGB [H, W, 3], under a transform.

    Returns None if they share too little, or if the reference does not look drawn: where there is no plain ground, as
    in photographs, there is no ink. `least_ground` (0 to 1) is the share of such ground around ink that it takes, or of
    the pixels that are like one of two tones.

    `transform` float64 [2, 3] leads from the reference to the query, both in shares of width and height, as that of a
    `Verification`. `negative` says that the query has inverted colors.
    """
    laid = _lay_over(255 - query if negative else query, reference, transform, least_ground)
    if laid is None:
        return None
    shown, original, inside = laid
    matched = _match_blur(to_gray(original), to_gray(shown), inside)
    if matched is None:
        return None
    first, second = matched
    correlation, here, _ = correlate_blocks(first, second, BLOCK, REACH)
    inks = here, block_deviation(second, BLOCK)
    is_line = np.maximum(_cornerness(first, BLOCK), _cornerness(second, BLOCK)) < LINE
    grounds = same_ground(original, shown, inside, _at_full_size(reference))
    return _count(correlation, inks, is_line, inside, grounds)


def _lay_over(
    query: Bytes, reference: Bytes, transform: Doubles, least_ground: float
) -> tuple[Bytes, Bytes, Bools] | None:
    """Return the query laid over the reference, the reference, and which blocks lie in both, bool [rows, columns].

    Both pictures are reduced to the size of the one in which the reference is smaller, but not below `LEAST_SIDE`.
    Whether the reference looks drawn is seen at its own size, since hardly any ground is left between reduced marks.
    """
    placed = _in_pixels(np.vstack([transform, [0, 0, 1]]), reference, query)
    scale = float(np.sqrt(abs(np.linalg.det(placed[:2, :2]))))
    drawn, side = _at_full_size(reference), min(reference.shape[:2])
    if not 1e-3 < scale < 1e3 or side * min(scale, 1.0) < LEAST_SHOWN:
        return None
    if flat_ground(drawn) < least_ground and two_toned_share(drawn) < least_ground:
        return None
    ratio = min(drawn.shape[0] / reference.shape[0], max(scale, LEAST_SIDE / side))
    original = _reduce(reference, ratio)
    sharp = np.asarray(cv2.cvtColor(original, cv2.COLOR_RGB2GRAY), np.float32)
    if (block_deviation(sharp, BLOCK) > INK).sum() < FEWEST_BLOCKS:
        ratio *= OFF_GRID
        original = _reduce(reference, ratio)
    small = _reduce(query, min(1.0, ratio / scale))
    if min(original.shape[:2]) < 2 * MATCHED_BLOCK or max(small.shape) > LONGEST:
        return None
    placed = _in_pixels(np.vstack([transform, [0, 0, 1]]), original, small)
    everywhere = np.full(small.shape[:2], 255, np.uint8)
    placed = _refine(placed, to_gray(small), to_gray(original), everywhere)
    inside = block_means(_warp(everywhere, placed, original, edge=False).astype(np.float32), BLOCK) > 254
    return None if inside.sum() < FEWEST_BLOCKS else (_warp(small, placed, original), original, inside)


def _at_full_size(reference: Bytes) -> Bytes:
    """Return a reference at the largest size at which it is compared."""
    height, width = reference.shape[:2]
    return _reduce(reference, min(1.0, SIDE / min(height, width), (MOST_PIXELS / (height * width)) ** 0.5))


def _in_pixels(shares: Doubles, reference: Bytes, query: Bytes) -> Doubles:
    """Return a transform float64 [3, 3] between shares of two pictures' sides as one between their pixels."""
    (height, width), (rows, columns) = query.shape[:2], reference.shape[:2]
    return np.asarray(np.diag([width, height, 1.0]) @ shares @ np.diag([1 / columns, 1 / rows, 1.0]))


def _reduce(pixels: Bytes, ratio: float) -> Bytes:
    size = (max(4, round(pixels.shape[1] * ratio)), max(4, round(pixels.shape[0] * ratio)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8) if ratio < 1 else pixels


def _warp(pixels: NDArray[Any], placed: Doubles, like: NDArray[Any], *, edge: bool = True) -> NDArray[Any]:
    """Return pixels in the place and the size of the picture `like`; beyond their edge they go on, or are 0."""
    border = cv2.BORDER_REPLICATE if edge else cv2.BORDER_CONSTANT
    flags = (cv2.INTER_LINEAR if edge else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    return np.array(cv2.warpPerspective(pixels, placed, like.shape[1::-1], flags=flags, borderMode=border))


def _refine(placed: Doubles, query: Floats, reference: Floats, everywhere: Bytes) -> Doubles:
    """Return the transform with which blocks agree best: the given one, or one fitted to where the blocks match."""
    for factor, reach in zip((2, 1), REACHES, strict=True):
        shown = _warp(query, placed, reference)
        first, second = (_shrink(each, factor) for each in (reference, shown))
        block = MATCHED_BLOCK // factor
        correlation, deviation, moved = correlate_blocks(first, second, block, reach)
        inside = block_means(
            _shrink(_warp(everywhere, placed, reference, edge=False).astype(np.float32), factor), block
        )
        usable = (deviation > INK) & (inside > 250)
        rows, columns = np.nonzero(usable & (correlation > MATCHED) & (_cornerness(first, block) > CORNER))
        if len(rows) < FEWEST_MATCHED:
            continue
        here = ((np.stack([columns, rows], axis=1) + 0.5) * MATCHED_BLOCK).astype(np.float32)
        found = _correct(here, here + factor * moved[rows, columns], factor * OFF, reference.shape)
        tried = [placed, *(placed @ each for each in found)]
        placed = max(tried, key=lambda each: _agreement(each, query, reference, usable))
    return placed


def _shrink(gray: Floats, factor: int) -> Floats:
    return block_means(gray, factor) if factor > 1 else gray


def _cornerness(gray: Floats, block: int) -> Floats:
    """Return the ratio of the least to the greatest eigenvalue of each block's structure tensor, 0 to 1."""
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    xx, yy, xy = (block_means(each, block) for each in (dx * dx, dy * dy, dx * dy))
    half, root = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.asarray(np.maximum(half - root, 0) / (half + root + 1e-6), np.float32)


def _correct(here: Floats, there: Floats, error: float, shape: tuple[int, ...]) -> list[Doubles]:
    """Return an affine and a projective correction, float64 [3, 3], that the matches of blocks agree with."""
    affine, _ = cv2.estimateAffine2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=error)
    projective, _ = cv2.findHomography(here, there, cv2.RANSAC, error)
    found = [None if affine is None else np.vstack([affine, [0, 0, 1]]), projective]
    height, width = shape
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    farthest = FARTHEST_MOVED * max(width, height)
    return [
        np.asarray(each, np.float64)
        for each in found
        if each is not None and np.abs(cv2.perspectiveTransform(corners, each) - corners).max() < farthest
    ]


def _agreement(placed: Doubles, query: Floats, reference: Floats, usable: Bools) -> float:
    """Return the mean correlation of the usable blocks under a transform."""
    correlation, *_ = correlate_blocks(reference, _warp(query, placed, reference), MATCHED_BLOCK, 0)
    return float(correlation[usable].mean())


def _match_blur(first: Floats, second: Floats, inside: Bools) -> tuple[Floats, Floats] | None:
    """Return both pictures, one of them as blurred as the other; None if hardly any block has ink."""
    best: tuple[float, Floats, Floats] | None = None
    for one, other in BLURS:
        a, b = blur(first, one), blur(second, other)
        correlation, deviation, _ = correlate_blocks(a, b, BLOCK, 0)
        values = correlation[inside & (deviation > NOISE)]
        if len(values) >= FEWEST_BLOCKS:
            score = float(np.percentile(values, 75)) - BLUR_COST * (one + other)
            best = (score, a, b) if best is None or score > best[0] else best
    return None if best is None else best[1:]


def _count(correlation: Floats, inks: tuple[Floats, Floats], is_line: Bools, inside: Bools, same: Bools) -> Content:
    """Return the content of blocks [rows, columns], given their correlations.

    `inks` are deviations in the reference and in the query, and `same` says where the ground is the same. Two pictures
    of one template share its straight lines: that these agree is no evidence, so blocks with nothing else do not count.
    """
    here, there = inks
    inked = inside & (here > INK)
    usual = float(np.percentile(correlation[inked], 75)) if inked.any() else 0.0
    clear = inked & (correlation > CLEAR)
    contrast = float(np.median(there[clear] / here[clear])) if clear.any() else 1.0
    there = there / max(contrast, LEAST_CONTRAST)
    both = np.minimum(here, there)
    agrees, inked = correlation >= min(ALIKE, usual) - BELOW, inside & (both > INK)
    seen = inside & same & ~_covered(inked & ~agrees & ~same)
    inside_copy = _around(inked & agrees)
    inked &= ~(agrees & is_line)
    kept, differs = inked & agrees, inked & ~agrees & seen
    lone = [(one > STRONG) & (other < FAINT) & seen for one, other in ((here, there), (there, here))]
    return Content(
        *_replaced((here, there), kept, differs, lone),
        *_replaced((here, there), kept, differs & inside_copy, [blocks & inside_copy for blocks in lone]),
        share=float(kept.sum() / max(inked.sum(), 1)),
    )


def _replaced(inks: tuple[Floats, Floats], kept: Bools, differs: Bools, lone: Sequence[Bools]) -> tuple[float, float]:
    """Return the shares of ink and of areas that are replaced; `lone` are the blocks with ink in one picture only."""
    both = np.minimum(*inks)
    changed = both[differs].sum() + 2 * min(one[blocks].sum() for one, blocks in zip(inks, lone, strict=True))
    areas = _areas(differs)
    spread = areas.sum() + 2 * min((_areas(blocks) & ~areas).sum() for blocks in lone)
    return (
        float(changed / (changed + both[kept].sum() + 1)),
        min(float(spread / max((_areas(kept) | areas).sum(), 1)), 1.0),
    )


def _around(kept: Bools) -> Bools:
    """Return the rectangle of blocks around nearly all that agree; everything if hardly any do."""
    rows, columns = np.nonzero(kept)
    if len(rows) < FEWEST_AROUND:
        return np.ones_like(kept)
    around = np.zeros_like(kept)
    (top, bottom), (left, right) = (np.percentile(places, MOST_AROUND).astype(int) for places in (rows, columns))
    around[top : bottom + 1, left : right + 1] = True
    return around


def _areas(blocks: Bools) -> Bools:
    """Return in which areas there is one of some blocks."""
    rows, columns = (-side % AREA for side in blocks.shape)
    padded = np.pad(blocks, ((0, rows), (0, columns)))
    split = padded.reshape(padded.shape[0] // AREA, AREA, padded.shape[1] // AREA, AREA)
    return np.asarray(split.any(axis=(1, 3)))


def _covered(strange: Bools) -> Bools:
    """Return where something covers a picture, with its border: blocks with another ground, side by side."""
    _, labels, sizes, _ = cv2.connectedComponentsWithStats(strange.astype(np.uint8), connectivity=8)
    large = (sizes[labels, cv2.CC_STAT_AREA] >= COVER) & strange
    return cv2.dilate(large.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
