"""Augmentations of labeled similarity matrices, which simulate other videos, frame rates and descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.arrays import Floats, Times

RATES = (0.6, 1.8)  # factor on the frames per second
NOISE, GAINS, OFFSET = 0.1, (0.8, 1.2), 0.1
BLUR_SIDES, BLUR_SPREADS = (
    (3, 5, 7),
    (0.1, 0.7),
)  # as in the training of the candidate classifier of VSC2022's first place


def change_rates(matrix: SimilarityMatrix, rng: np.random.Generator) -> SimilarityMatrix:
    """Return the matrix with more or fewer frames per second on each axis, with a chance of 1/3 per axis."""
    values, axes = matrix.values, [matrix.query_times, matrix.reference_times]
    for axis, times in enumerate(axes):
        if rng.random() < 1 / 3:
            values, axes[axis] = _resample(values, times, axis, float(np.exp(rng.uniform(*np.log(RATES)))))
    return SimilarityMatrix(values, *axes)


def crop_window(
    matrix: SimilarityMatrix, segments: Sequence[Segment], side: int, rng: np.random.Generator
) -> SimilarityMatrix:
    """Return a part of at most `side` rows and columns; with a chance of 1/3 it is smaller than it could be.

    With a chance of 4/5 it contains the center of one of the segments.
    """
    target = segments[int(rng.integers(len(segments)))] if segments and rng.random() < 0.8 else None
    cut = rng.random() < 1 / 3
    slices = []
    for axis, times in enumerate((matrix.query_times, matrix.reference_times)):
        length = min(side, len(times), round(len(times) * rng.uniform(0.5, 1)) if cut else side)
        first, last = 0, len(times) - max(length, 1)
        if target is not None:
            start, end = target.box[2 * axis : 2 * axis + 2]
            at = int(np.abs(times.mean(axis=1) - (start + end) / 2).argmin())
            first, last = max(first, at - length + 1), min(last, at)
        begin = int(rng.integers(first, max(first, last) + 1))
        slices.append(slice(begin, begin + max(length, 1)))
    return matrix.part(slices[0], slices[1])


def flip_axes(values: Floats, label: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Transpose values and label at random, and reverse both axes or one, which turns a copy into a backwards one."""
    if rng.random() < 0.5:
        values, label = values.T, label.T
    if rng.random() < 0.5:
        values, label = values[::-1, ::-1], label[::-1, ::-1]
    if rng.random() < 0.15:
        values, label = values[:, ::-1], label[:, ::-1]
    return values, label


def change_values(values: Floats, rng: np.random.Generator) -> Floats:
    """Return values float32 [Q, R] as from another descriptor: scaled, square-rooted, noisy or blurred at random."""
    values = np.array(values, np.float32, order="C")
    if rng.random() < 0.5:
        values = values * np.float32(rng.uniform(*GAINS)) + np.float32(rng.uniform(-OFFSET, OFFSET))
    if rng.random() < 0.1:
        values = np.asarray(np.sign(values) * np.sqrt(np.abs(values)), np.float32)
    if rng.random() < 0.3:
        values += rng.uniform(-NOISE, NOISE, values.shape).astype(np.float32)
    if rng.random() < 0.3:
        side = int(rng.choice(BLUR_SIDES))
        blurred = cv2.GaussianBlur(values, (side, side), rng.uniform(*BLUR_SPREADS)).reshape(values.shape)
        values = np.asarray(blurred, np.float32)
    return values


def pad_to_canvas(values: Floats, side: int) -> Floats:
    """Return float32 [side, side] with the values in the upper left corner, and 0 elsewhere."""
    canvas = np.zeros((side, side), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas


def _resample(values: Floats, times: Times, axis: int, rate: float) -> tuple[Floats, Times]:
    """Resample an axis to `rate` times as many frames; values between frames are interpolated."""
    frame = float(np.median(times[:, 1] - times[:, 0])) / rate
    starts = np.arange(times[0, 0], max(times[-1, 1] - frame / 2, times[0, 0] + 1e-9), frame)
    at = np.interp(starts + frame / 2, times.mean(axis=1), np.arange(len(times)))
    before = np.floor(at).astype(np.int64)
    after = np.minimum(before + 1, len(times) - 1)
    share = (at - before).astype(np.float32)
    share = share[:, None] if axis == 0 else share[None]
    between = values.take(before, axis) * (1 - share) + values.take(after, axis) * share
    return between, np.stack([starts, starts + frame], axis=1)
