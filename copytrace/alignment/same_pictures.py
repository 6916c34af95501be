"""Alignment by pictures that are the same, for videos whose frames are all alike to a descriptor, such as slides.

The similarities of such videos are a flat matrix, in which no aligner finds the right moments. Thumbnails tell their
pictures apart, and hardly change if a copy was only cut and encoded again. If it was edited too, such as framed or made
darker, they are still more like those of the same moments than like others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats, Times
from copytrace.errors import MediaError
from copytrace.features.thumbnails import (
    LUMA,
    compare_thumbnails,
    thumbnail,
    thumbnail_contrast,
    thumbnail_difference,
    thumbnail_differences,
)
from copytrace.matching.score import Calibration, thumbnail_features_of
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import read_frames
from copytrace.media.rgb import Pixels

PER_SECOND = 2.0  # frames whose thumbnails are compared
SIDE = 72  # shorter side of these frames, in pixels
LONGEST = 300.0  # seconds of a video that are compared, from its start
SAME = 4.0  # difference of thumbnails in gray levels: that of 99 % of pictures encoded again, and of hardly any others
FEWEST_FRAMES = 4  # that are the same, one after another
MOST_OF_ONE = 0.8  # share of either video that shows a single picture, for it to be a still and not a title
PROVEN = 3  # different pictures that are the same one after another, and more than plain, are no accident
USUAL = 90  # percentile of a picture's distances: that of pictures of other moments
LEAST_AHEAD = 0.005  # of correlation; by less, a picture is not more alike than those of other moments
NOISE = 0.5  # gray levels: contrast of a thumbnail that shows nothing
PLAIN = 4.0  # contrast of a picture in gray levels; with less, as if black, both videos must be that still

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of N frames of a video, uint8 [N, 864], and their times float64 [N, 2], start and end in seconds."""

    times: Times
    pixels: Bytes


def read_thumbnails(
    path: str, limits: DecodingLimits, side: int = SIDE, edit: Callable[[Pixels], Pixels] | None = None
) -> Thumbnails:
    """Return the thumbnails of a video, as far as it can be read. Raises `MediaError` if nothing can.

    They are made of pictures uint8 RGB [H, W, 3] whose shorter side has at most `side` pixels, after an `edit`.
    """
    times: list[tuple[float, float]] = []
    pixels: list[Bytes] = []
    frames = read_frames(path, per_second=PER_SECOND, short_side=side, limits=limits)
    with suppress(MediaError):
        for frame in frames:
            if frame.start >= LONGEST:
                break
            times.append((frame.start, frame.end))
            pixels.append(thumbnail(edit(frame.pixels) if edit else frame.pixels))
    if not pixels:
        raise MediaError("has no picture that can be decoded")
    return Thumbnails(np.array(times), np.stack(pixels))


def align_same_pictures(query: Thumbnails, reference: Thumbnails, calibration: Calibration) -> Segment | None:
    """Return the longest stretch of both videos in which they show the same pictures at the same pace; None if none.

    It must show two pictures at least, unless nearly all of either video is one still. The score is the probability
    that the pictures are the same, if they are `PROVEN` or more, or if the reference is that still. Otherwise it is 0:
    there may be points that tell more.
    """
    apart = thumbnail_differences(query.pixels, reference.pixels)
    same = apart < SAME
    distinct = np.concatenate([[0], np.cumsum(_changes(query.pixels))])
    best: tuple[int, int, int] | None = None
    for first, start, length in _runs(same):
        pictures = 1 + distinct[first + length - 1] - distinct[first]
        is_still = max(same[first].mean(), same[:, start].mean()) >= MOST_OF_ONE
        if length >= FEWEST_FRAMES and (pictures > 1 or is_still) and (not best or length > best[2]):
            best = first, start, length
    if best is None:
        return None
    here, there = (slice(first, first + best[2]) for first in best[:2])
    query_times, reference_times = query.times[here], reference.times[there]
    is_still, all_of_query = same[here.start].mean() >= MOST_OF_ONE, same[:, there.start].mean() >= MOST_OF_ONE
    is_proven = min(_count_pictures(query.pixels[here]), _count_pictures(reference.pixels[there])) >= PROVEN
    is_told = is_still and (all_of_query or thumbnail_contrast(reference.pixels[there.start]) >= PLAIN)
    return Segment(
        float(query_times[0, 0]),
        float(query_times[-1, 1]),
        float(reference_times[0, 0]),
        float(reference_times[-1, 1]),
        _same_probability(query.pixels[here], reference.pixels[there], calibration) if is_told or is_proven else 0.0,
    )


def align_alike_pictures(query: Thumbnails, reference: Thumbnails) -> Segment | None:
    """Return the stretch of both videos, at the same pace, in which pictures are most ahead of others in likeness.

    Returns None if none are ahead for `FEWEST_FRAMES`. The score is 0: lookalikes have such a stretch too.
    """
    apart = 1.0 - _correlations(query.pixels, reference.pixels)
    others = np.minimum(
        np.percentile(apart, USUAL, axis=1, keepdims=True), np.percentile(apart, USUAL, axis=0, keepdims=True)
    )
    ahead = others - apart - LEAST_AHEAD
    first, start, length = _best_run(ahead)
    # Where both show other pictures, these may be a little ahead too, but less than those of a copy.
    along = ahead[range(first, first + length), range(start, start + length)]
    before, _, length = _best_run(np.diag(along - np.median(along) / 2)) if length else (0, 0, 0)
    if length < FEWEST_FRAMES:
        return None
    first, start = first + before, start + before
    here, there = query.times[first : first + length], reference.times[start : start + length]
    return Segment(float(here[0, 0]), float(here[-1, 1]), float(there[0, 0]), float(there[-1, 1]), 0.0)


def is_plain_beside(first: Bytes, second: Bytes) -> bool:
    """Return whether one of two pictures, by their thumbnails uint8 [864], is plain, and the other is not the same."""
    is_plain = min(thumbnail_contrast(first), thumbnail_contrast(second)) < PLAIN
    return is_plain and thumbnail_difference(first, second) >= SAME


def is_blank(first: Bytes, second: Bytes) -> bool:
    """Return whether two pictures, by their thumbnails uint8 [864], are both plain, such as black."""
    return max(thumbnail_contrast(first), thumbnail_contrast(second)) < PLAIN


def shows_pictures(video: Thumbnails) -> bool:
    """Return whether a video is not just plain, for nearly all of it."""
    return float(np.mean([thumbnail_contrast(each) < PLAIN for each in video.pixels])) < MOST_OF_ONE


def _correlations(first: Bytes, second: Bytes) -> Floats:
    """Return the correlation of the luma of N and of M thumbnails, float32 [N, M]."""
    scaled = []
    for thumbnails in (first, second):
        luma = thumbnails[:, :LUMA].astype(np.float32)
        luma -= luma.mean(axis=1, keepdims=True)
        scaled.append(luma / (np.linalg.norm(luma, axis=1, keepdims=True) + NOISE * LUMA**0.5))
    return np.asarray(scaled[0] @ scaled[1].T, np.float32)


def _best_run(values: Floats) -> tuple[int, int, int]:
    """Return the row, the column and the length of the stretch of a diagonal with the greatest sum; 0 long if none."""
    rows, columns = values.shape
    total, begun = np.zeros(columns + 1), np.zeros(columns + 1, np.int64)  # of the run that ends there; one to the left
    best, found = 0.0, (0, 0, 0)
    for row in range(rows):
        going_on = total[:-1] > 0
        total[1:], begun[1:] = values[row] + np.where(going_on, total[:-1], 0), np.where(going_on, begun[:-1], row)
        column = int(total[1:].argmax())
        if total[column + 1] > best:
            length = row - int(begun[column + 1]) + 1
            best, found = float(total[column + 1]), (row - length + 1, column - length + 1, length)
    return found


def _same_probability(first: Bytes, second: Bytes, calibration: Calibration) -> float:
    """Return the median probability that each of N thumbnails and of N others, uint8 [N, 864], show the same."""
    compared = [compare_thumbnails(*each) for each in zip(first, second, strict=True)]
    return float(np.median(calibration.thumbnail.probability(thumbnail_features_of(pa.Table.from_pylist(compared)))))


def _count_pictures(thumbnails: Bytes) -> int:
    """Return how many pictures that are not plain thumbnails [N, 864] show, one after another."""
    clear = thumbnails[[thumbnail_contrast(each) >= PLAIN for each in thumbnails]]
    return int(len(clear) > 0) + int(_changes(clear).sum())


def _changes(thumbnails: Bytes) -> NDArray[np.bool_]:
    """Return whether each thumbnail but the first shows another picture than the one before."""
    return np.array([thumbnail_difference(*each) >= SAME for each in pairwise(thumbnails)], bool)


def _runs(same: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Yield the row, the column and the length of every run along a diagonal."""
    rows, columns = same.shape
    for offset in range(1 - rows, columns):
        diagonal = np.diagonal(same, offset)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], diagonal, [False]])))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            yield int(start - min(offset, 0)), int(start + max(offset, 0)), int(end - start)
