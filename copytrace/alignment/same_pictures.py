"""Alignment by pictures that are the same, for videos whose frames are all alike to a descriptor, such as slides.

The similarities of such videos are a flat matrix, in which no aligner finds the right moments. Thumbnails tell their
pictures apart, and hardly change if a copy was only cut and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.arrays import Times
from copytrace.errors import MediaError
from copytrace.features.thumbnails import (
    compare_thumbnails,
    thumbnail,
    thumbnail_contrast,
    thumbnail_difference,
    thumbnail_differences,
)
from copytrace.matching.score import Calibration, thumbnail_features_of
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import read_frames

PER_SECOND = 2.0  # frames whose thumbnails are compared
SIDE = 72  # shorter side of these frames, in pixels
LONGEST = 300.0  # seconds of a video that are compared, from its start
SAME = 4.0  # difference of thumbnails in gray levels: that of 99 % of pictures encoded again, and of hardly any others
FEWEST_FRAMES = 4  # that are the same, one after another
MOST_OF_ONE = 0.8  # share of either video that shows a single picture, for it to be a still and not a title
PLAIN = 4.0  # contrast of a picture in gray levels; with less, as if black, both videos must be that still

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of N frames of a video, uint8 [N, 864], and their times float64 [N, 2], start and end in seconds."""

    times: Times
    pixels: Bytes


def read_thumbnails(path: str, limits: DecodingLimits) -> Thumbnails:
    """Return the thumbnails of a video, as far as it can be read. Raises `MediaError` if nothing can."""
    times: list[tuple[float, float]] = []
    pixels: list[Bytes] = []
    frames = read_frames(path, per_second=PER_SECOND, short_side=SIDE, limits=limits)
    with suppress(MediaError):
        for frame in frames:
            if frame.start >= LONGEST:
                break
            times.append((frame.start, frame.end))
            pixels.append(thumbnail(frame.pixels))
    if not pixels:
        raise MediaError("has no picture that can be decoded")
    return Thumbnails(np.array(times), np.stack(pixels))


def align_same_pictures(query: Thumbnails, reference: Thumbnails, calibration: Calibration) -> Segment | None:
    """Return the longest stretch of both videos in which they show the same pictures at the same pace; None if none.

    It must show two pictures at least, unless nearly all of either video is one still. The score is the probability
    that the reference is that still, and otherwise 0: there may be points that tell more.
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
    is_told = is_still and (all_of_query or thumbnail_contrast(reference.pixels[there.start]) >= PLAIN)
    return Segment(
        float(query_times[0, 0]),
        float(query_times[-1, 1]),
        float(reference_times[0, 0]),
        float(reference_times[-1, 1]),
        _same_probability(query.pixels[here.start], reference.pixels[there.start], calibration) if is_told else 0.0,
    )


def _same_probability(first: Bytes, second: Bytes, calibration: Calibration) -> float:
    features = thumbnail_features_of(pa.Table.from_pylist([compare_thumbnails(first, second)]))
    return float(calibration.thumbnail.probability(features)[0])


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
