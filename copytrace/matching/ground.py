"""The ground of drawn pictures, on which there is ink: how much of it there is, and where it is the same in two."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Doubles, Floats
from copytrace.features.points import Bytes
from copytrace.matching.blocks import block_deviation, split_blocks, to_gray

Bools = NDArray[np.bool_]

BLOCK = 16  # pixels; a word of a page, or some letters of a poster
INK = 5.0  # standard deviation of blocks with some ink, in gray levels

# Share of pixels like the ground in blocks with ink. Of 60 photographs, 59 have 0.20 to 0.39 and one 0.46; of
# drawn pictures of 36 kinds, all but a page of small print and a bar code have more than 0.5.
# After a camera took them, one drawn picture in five has less than 0.4, and one in forty less than 0.3; of 234
# photographs, a quarter have more than 0.3 and an eighth more than 0.33. So less is enough only where the points of a
# pair look like those of drawn pictures: of 400 copies of photographs, 9 have marks that repeat, and in 5 few agree.
DRAWN, DRAWN_REPEATED, DRAWN_FEW_AGREE = 0.4, 0.3, 0.33
SURELY_DRAWN = 0.5  # one photograph in a hundred has more, and so have two-dimensional codes, chats and tables
LIKE_GROUND = 0.25  # of a block's standard deviation: how far from the ground, its median, such pixels may be
# Bar codes have 0.30 to 0.42 of such pixels, but 0.61 to 0.74 that are as dark or as light as the ends of their block,
# and photographed ones 0.40 to 0.63. Of 150 photographs, 95 % have less than 0.34, and 99 % less than 0.49.
ENDS, LIKE_END = (0.1, 0.9), 0.05  # shares of pixels that are darker than the ends; how far off, in their distance

SAME_GROUND = 25.0  # gray levels by which the medians of a block may differ in any channel
GROUND_NOISE, REWEIGHTINGS = 8.0, 8  # gray levels, and steps, of the fit of an edit of all colors

TONES, TWO_TONES = (0.15, 0.85), 60.0  # shares of pixels that are darker than a block's tones; their least distance
# In codes, 0.43 to 0.68 of the blocks have two tones, and the ground of 0.21 to 0.56 of these is the dark one. Of 144
# other drawn pictures that are no patterns, those with a share over 0.35 have a dark ground in up to 0.12.
CODE, ON_DARK = 0.35, (0.18, 0.82)
SAME_TONES = 0.25  # of the distance of two tones: by how much each may differ in any channel


def flat_ground(picture: Bytes) -> float:
    """Return how drawn a picture uint8 RGB [H, W, 3] looks: the share of plain ground around its ink, 0 to 1.

    It is the share of pixels like the ground in blocks with ink, and 1 if there are no such blocks.
    """
    blocks = _inked_blocks(picture)
    apart = np.abs(blocks - np.median(blocks, axis=1, keepdims=True))
    like = apart < LIKE_GROUND * blocks.std(axis=1, keepdims=True)
    return float(like.mean()) if len(blocks) else 1.0


def two_toned_share(picture: Bytes) -> float:
    """Return which share of the pixels in blocks with ink are like the dark or the light end of their block, 0 to 1.

    A picture uint8 RGB [H, W, 3] of a bar code or of small print has little ground, but hardly any tones between.
    """
    blocks = _inked_blocks(picture)
    if not len(blocks):
        return 1.0
    dark, light = np.quantile(blocks, ENDS, axis=1)[:, :, None]
    off = np.minimum(np.abs(blocks - dark), np.abs(blocks - light))
    return float((off < LIKE_END * (light - dark)).mean())


def _inked_blocks(picture: Bytes) -> Floats:
    gray = to_gray(picture)
    return np.asarray(split_blocks(gray, BLOCK)[block_deviation(gray, BLOCK) > INK])


def same_ground(original: Bytes, shown: Bytes, inside: Bools, reference: Bytes) -> Bools:
    """Return in which blocks [rows, columns] the ground is the same in both pictures but for an edit of all colors.

    Both are uint8 RGB [H, W, 3]; blocks that are not `inside` say nothing about the edit. The ground is a block's
    median. In a code, that is black or white as its cells happen to be. So the ground of a code is the same where both
    tones of a block are, or where the other picture has no tones but those of the code. Whether it is one is also seen
    in the `reference`, which is `original` at its full size.
    """
    before, after = (_medians(each) for each in (original, shown))
    same = np.abs(_edit(before, _fit_edit(before, after, inside)) - after).max(axis=-1) < SAME_GROUND
    tones = _tones(original)
    if (code := _code_tones(tones, before, inside)) is None or two_toned_share(reference) < SURELY_DRAWN:
        return np.asarray(same)
    seen = _tones(shown)
    # Where a block has two tones in both pictures, its dark tone became the dark one, and its light tone the light one.
    contrasts = inside * np.prod([np.ptp(each.mean(axis=-1), axis=0) / 255 for each in (tones, seen)], axis=0)
    fitted = _fit_edit(tones, seen, np.stack([contrasts, contrasts]))
    dark, light = _edit(code, fitted)
    off_code = np.minimum(*(np.abs(seen - tone).max(axis=-1) for tone in (dark, light))).max(axis=0)
    off_block = np.abs(_edit(tones, fitted) - seen).max(axis=(0, -1))
    return np.asarray(same | (np.minimum(off_code, off_block) < SAME_TONES * np.abs(light - dark).max()))


def _medians(pixels: Bytes) -> Floats:
    """Return the median of a third of the pixels of each block, float [rows, columns, 3]."""
    return np.asarray(np.median(split_blocks(pixels, BLOCK)[:, :, ::3], axis=2))


def _tones(pixels: Bytes) -> Floats:
    """Return the dark and the light tone of a third of the pixels of each block, float [2, rows, columns, 3]."""
    return np.asarray(np.quantile(split_blocks(pixels, BLOCK)[:, :, ::3], TONES, axis=2))


def _code_tones(tones: Floats, medians: Floats, inside: Bools) -> Floats | None:
    """Return the dark and the light tone [2, 3] of a picture in which neither is the ground, as in codes; else None."""
    (dark, light), middle = tones.mean(axis=-1), medians.mean(axis=-1)
    two_toned = inside & (light - dark > TWO_TONES)
    if two_toned.sum() <= CODE * inside.sum():
        return None
    on_dark = float((middle < (dark + light) / 2)[two_toned].mean())
    return np.asarray(np.median(tones[:, two_toned], axis=1)) if ON_DARK[0] < on_dark < ON_DARK[1] else None


def _fit_edit(before: Floats, after: Floats, counts: NDArray[Any]) -> Doubles:
    """Return an affine map of colors [..., 3], float64 [4, 3], fitted by iteratively reweighted least squares.

    `counts` [...] says how much each color counts at first.
    """
    colors, target = before.reshape(-1, 3).astype(np.float64), after.reshape(-1, 3).astype(np.float64)
    design, first = np.column_stack([colors, np.ones(len(colors))]), counts.astype(np.float64).ravel()
    fitted: Doubles = np.zeros((4, 3))
    weights = first
    for _ in range(REWEIGHTINGS):
        solution, *_ = np.linalg.lstsq(design * weights[:, None], target * weights[:, None], rcond=None)
        fitted = np.asarray(solution, np.float64)
        off = np.abs(design @ fitted - target).max(axis=1)
        weights = np.asarray(first / (1 + (off / GROUND_NOISE) ** 2), np.float64)
    return fitted


def _edit(colors: Floats, fitted: Doubles) -> Doubles:
    return np.asarray(colors @ fitted[:3] + fitted[3])
