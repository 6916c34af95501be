"""Synthetic similarity matrices: copies drawn into the matrices of real unrelated videos.

A copy follows the shots of the reference: frames within a shot are similar, and more so the closer they are, while
frames of different shots are not. Some diagonals are therefore sharp, and others are chains of blocks. The query shows
a shot only as far as it was copied, but the shot continues in the reference: a copy ends with its rows, and not with
the bright block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.arrays import Floats, Times

# The 2,707 true segments of VSC2022's training set. Their lengths in the query are log-normal with this median and
# deviation (mean 12.1 s) within these bounds; 43 % play at the speed of the reference, the rest between 0.6 and 1.5.
MEDIAN_LENGTH, LENGTH_DEVIATION, LENGTHS = 10.3, 0.56, (2.2, 85.0)
SAME_SPEED, SPEEDS = 0.43, (0.6, 1.5)
# Several segments of a pair follow one another after up to 1.5 s in the query and about 3 s in the reference.
QUERY_GAP, MEDIAN_REFERENCE_GAP = 1.5, 2.8
QUERY_SECONDS, REFERENCE_SECONDS = (44.0, 10.0, 180.0), (30.0, 5.0, 180.0)  # median, bounds

# Chosen here, so that the network sees more of the cases that are rare there.
WILD_SPEED, WILD_SPEEDS = 0.1, (0.5, 2.0)
SEGMENT_COUNTS = (0.3, 0.52, 0.1, 0.08)  # chances of 0, 1, 2, 3
BACKWARDS = 0.15

# Mean similarity along the true segments of edited videos, and how it varies from shot to shot.
GAIN, GAIN_DEVIATION, SHOT_DEVIATION, GAINS = 0.55, 0.18, 0.12, (0.1, 0.95)
MEDIAN_SHOT, SHOT_SPREAD, SHOTS = 3.5, 0.5, (1.2, 30.0)  # seconds
SHARPNESS = (0.7, 6.0)  # seconds over which the similarity within a shot decreases


@dataclass(frozen=True, slots=True)
class SyntheticMatrices:
    """Source of synthetic matrices; `backgrounds` are the values, float32 [Q, R] each, of pairs without copies."""

    backgrounds: Sequence[Floats]

    def draw(self, rng: np.random.Generator) -> tuple[SimilarityMatrix, list[Segment]]:
        """Return a matrix and its true segments, which may be none."""
        query, reference = (time_axis(rng, *seconds) for seconds in (QUERY_SECONDS, REFERENCE_SECONDS))
        values = self._background(rng, len(query), len(reference))
        cuts = shot_cuts(rng, reference[-1, 1])
        segments = draw_segments(rng, query[-1, 1], reference[-1, 1])
        _add_similar_blocks(values, rng)
        gain = float(np.clip(rng.normal(GAIN, GAIN_DEVIATION), *GAINS))
        for segment in segments:
            _add_copy(values, rng, segment, query, reference, cuts, gain)
        _add_stripes(values, rng)
        return SimilarityMatrix(values, query, reference), segments

    def _background(self, rng: np.random.Generator, rows: int, columns: int) -> Floats:
        values = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        values = values.T if rng.random() < 0.5 else values
        values = values[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        missing = [max(0, want - have) for want, have in zip((rows, columns), values.shape, strict=True)]
        values = np.pad(values, [(0, missing[0]), (0, missing[1])], mode="symmetric")
        top, left = rng.integers(values.shape[0] - rows + 1), rng.integers(values.shape[1] - columns + 1)
        return values[top : top + rows, left : left + columns].copy()


def time_axis(rng: np.random.Generator, median: float, shortest: float, longest: float) -> Times:
    """Return start and end of each frame of a video, float64 [N, 2]: mostly regular, sometimes uneven or missing."""
    seconds = np.clip(median * np.exp(rng.normal(0, 0.5)), shortest, longest)
    frame = 1.0 if rng.random() < 0.6 else np.exp(rng.uniform(np.log(0.5), np.log(2.0)))
    starts = np.arange(max(3, round(seconds / frame))) * frame
    if rng.random() < 0.2:
        starts[1:] += rng.uniform(-0.3, 0.3, len(starts) - 1) * frame
    times = np.stack([starts, np.append(starts[1:], starts[-1] + frame)], axis=1)
    if rng.random() < 0.1 and len(times) > 10:
        first, count = rng.integers(1, len(times) - 5), rng.integers(1, 5)
        times = np.delete(times, np.arange(first, first + count), axis=0)
    return times


def draw_segments(rng: np.random.Generator, query_seconds: float, reference_seconds: float) -> list[Segment]:
    """Return up to three segments in order on both axes, with the lengths and speeds of true ones."""
    segments: list[Segment] = []
    count = rng.choice(len(SEGMENT_COUNTS), p=SEGMENT_COUNTS)
    for _ in range(count):
        speed = _speed(rng)
        length = float(np.clip(MEDIAN_LENGTH * np.exp(rng.normal(0, LENGTH_DEVIATION)), *LENGTHS))
        if segments:
            start = segments[-1].query_end + rng.uniform(0, QUERY_GAP)
            reference_start = segments[-1].reference_end + MEDIAN_REFERENCE_GAP * np.exp(rng.normal(0, 0.7))
            length = min(length, query_seconds - start, (reference_seconds - reference_start) / speed)
        else:
            length = min(length, query_seconds, reference_seconds / speed)
            start = rng.random() * (query_seconds - length)
            reference_start = rng.random() * (reference_seconds - speed * length)
        if length < LENGTHS[0]:
            break
        backwards = bool(rng.random() < BACKWARDS)
        end, reference_end = start + length, reference_start + speed * length
        segments.append(Segment(start, end, reference_start, reference_end, 1.0, backwards))
    return segments


def shot_cuts(rng: np.random.Generator, seconds: float) -> Times:
    """Return the seconds of the cuts between the shots of a video of that length; some have a single shot."""
    if rng.random() < 0.05:
        return np.zeros(0)
    lengths = MEDIAN_SHOT * np.exp(rng.normal(0, SHOT_SPREAD, 2 + int(seconds / SHOTS[0])))
    return np.cumsum(np.clip(lengths, *SHOTS)) - rng.uniform(0, MEDIAN_SHOT)


def _speed(rng: np.random.Generator) -> float:
    kind = rng.random()
    if kind < WILD_SPEED:
        return float(np.exp(rng.uniform(*np.log(WILD_SPEEDS))))
    return 1.0 if kind < WILD_SPEED + SAME_SPEED else float(rng.uniform(*SPEEDS))


def _add_copy(
    values: Floats,
    rng: np.random.Generator,
    segment: Segment,
    query: Times,
    reference: Times,
    cuts: Times,
    gain: float,
) -> None:
    start, end = segment.query_start, segment.query_end
    seen = np.minimum(query[:, 1], end) - np.maximum(query[:, 0], start)  # seconds of each row that are copied
    rows = np.flatnonzero(seen > 0)
    if not len(rows):
        return
    shown = np.array([segment.reference_at(second) for second in query[rows].mean(axis=1).clip(start, end)])
    columns = reference.mean(axis=1)
    shot_shown, shot_of_column = np.searchsorted(cuts, shown), np.searchsorted(cuts, columns)
    shots = len(cuts) + 1
    gains = np.clip(gain + rng.normal(0, SHOT_DEVIATION, shots), *GAINS)
    widths = np.exp(rng.uniform(np.log(SHARPNESS[0]), np.log(SHARPNESS[1]), shots))
    floors = rng.uniform(0.0, 0.9, shots)
    apart = np.abs(shown[:, None] - columns[None])
    floor = floors[shot_shown][:, None]
    similarity = floor + (1 - floor) * np.exp(-((apart / widths[shot_shown][:, None]) ** 1.5))
    similarity *= shot_shown[:, None] == shot_of_column[None]
    if rng.random() < 0.25:  # the reference repeats a shot, which is not part of the copy
        again = rng.choice(shot_of_column)
        repeated = (shot_shown == rng.choice(shot_shown))[:, None] & (shot_of_column == again)[None]
        similarity = np.maximum(similarity, repeated * (shot_shown[:, None] != again) * rng.uniform(0.4, 0.9))
    visible = (seen[rows] / (query[rows, 1] - query[rows, 0])) * rng.uniform(0.85, 1.0, len(rows))
    similarity *= (visible * _dropouts(rng, len(rows)))[:, None] * _dropouts(rng, len(columns))[None]
    values[rows] += (similarity * (gains[shot_shown][:, None] - values[rows])).astype(np.float32)


def _dropouts(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return the share of each frame's similarity that is left: low in a few frames in a row, with a chance of 0.3."""
    left = np.ones(count)
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            first = rng.integers(count)
            left[first : first + rng.integers(1, 4)] = rng.uniform(0.0, 0.3)
    return left


def _add_similar_blocks(values: Floats, rng: np.random.Generator) -> None:
    """Add blocks of similar scenes that are not copies."""
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(values.shape[0]), rng.integers(values.shape[1])
            block = values[top : top + rng.integers(2, 10), left : left + rng.integers(2, 8)]
            block += rng.uniform(0.4, 0.9) * (rng.uniform(-0.1, 0.7) - block)


def _add_stripes(values: Floats, rng: np.random.Generator) -> None:
    """Add frames that are equally similar to all of the other video, such as black or blurred ones, or titles."""
    for side in (values, values.T):
        if rng.random() < 0.15:
            first = rng.integers(len(side))
            stripe = side[first : first + rng.integers(1, 8)]
            stripe += rng.uniform(0.5, 1.0) * (rng.uniform(-0.8, 0.5) - stripe)
