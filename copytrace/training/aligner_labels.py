"""Labels of an aligner: the copied segments of a pair as soft lines in its similarity matrix."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.arrays import Times


def label_map(segments: Iterable[Segment], query_times: Times, reference_times: Times) -> NDArray[np.float32]:
    """Return float32 [Q, R], 0 to 1: how close each cell of a similarity matrix is to the line of a true segment.

    `query_times` [Q, 2] and `reference_times` [R, 2] are the start and end of each row and column in seconds. A cell
    whose center is |d| frames from a line, measured across it, has √(1 − |d|), and 0 from one frame on. Cells near
    several lines have the largest value. A line extends over the frames of which at least half is inside its segment,
    on both axes; a segment that contains half of no frame has the frame with the largest share in it. Copies that play
    backwards are lines too.
    """
    label = np.zeros((len(query_times), len(reference_times)), np.float32)
    for segment in segments:
        rows = _inside(query_times, segment.query_start, segment.query_end)
        columns = _inside(reference_times, segment.reference_start, segment.reference_end)
        if len(rows) and len(columns):
            distances = _distances(segment, query_times[rows], reference_times[columns])
            cells = np.ix_(rows, columns)
            label[cells] = np.maximum(label[cells], np.sqrt(np.clip(1.0 - distances, 0.0, None)))
    return label


def _inside(times: Times, start: float, end: float) -> NDArray[np.int64]:
    """Return the frames of which at least half lies between start and end, or the one with the largest share."""
    shares = (np.minimum(times[:, 1], end) - np.maximum(times[:, 0], start)) / (times[:, 1] - times[:, 0])
    inside: NDArray[np.int64] = np.flatnonzero(shares >= 0.5)
    if len(inside) or not len(shares) or shares.max() <= 0:
        return inside
    return np.array([shares.argmax()])


def _distances(segment: Segment, query_times: Times, reference_times: Times) -> NDArray[np.float64]:
    """Return the distance [Q, R] in frames of each cell's center from the segment's line, measured across it."""
    query, reference = query_times.mean(axis=1), reference_times.mean(axis=1)
    lengths = [times[:, 1] - times[:, 0] for times in (query_times, reference_times)]
    expected = np.array([segment.reference_at(second) for second in query])
    across = (reference[None] - expected[:, None]) / lengths[1][None]
    slope = segment.speed * lengths[0][:, None] / lengths[1][None]  # columns per row
    return np.asarray(np.abs(across) / np.hypot(1.0, slope))
