"""Copied segments from a heat map by the published rule of the winners of the Video Similarity Challenge 2022.

It is for comparison: `JointRules` of `networks` also find shorter, crossing and reversed segments, and use
seconds. This rule counts frames: a segment ends where its last frame starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from copytrace.alignment.segments import Segment, SimilarityMatrix

# Threshold of the heat, and cost of its standard deviation along the line; from the published code.
PASSES = ((0.35, 0.5), (0.1, 1.25), (0.001, 2.0))
MIN_COMPONENT = 10  # cells; a component has more
MIN_FRAMES = 3  # rows and columns; a segment has more of each
MIN_INLIERS = 5  # cells; a line has more
INLIER_FRAMES = 1.0  # columns; distance of an inlier from the line
SPEED_COST = 0.1  # taken from the score of a segment at twice or half the speed
TRIALS, SEED, RANSAC_FRAMES = 200, 2023, 2.0

Cells = NDArray[np.intp]


def vsc22_segments(heat: NDArray[np.float32], matrix: SimilarityMatrix) -> list[Segment]:
    """Return the segments of a heat map [Q, R], 0 to 1, best first; scores are at most 1 and may be below 0.

    The rule fits lines by RANSAC through the 8-connected components of the map at three thresholds. A component without
    a line gives no segment, where the published code raised an error; neither does a line with only one moment of the
    reference. Raises `ValueError` if the heat map and the matrix differ in shape.
    """
    if heat.shape != matrix.shape:
        raise ValueError(f"heat map is {heat.shape}, but its similarity matrix is {matrix.shape}")
    best: dict[tuple[float, ...], Segment] = {}
    for threshold, deviation_cost in PASSES:
        for rows, columns in _components(heat > threshold):
            segment = _line(heat, matrix, rows, columns, deviation_cost)
            if segment is not None and (segment.box not in best or best[segment.box].score < segment.score):
                best[segment.box] = segment
    return sorted(best.values(), key=lambda segment: -segment.score)


def _components(mask: NDArray[np.bool_]) -> Iterator[tuple[Cells, Cells]]:
    """Yield each large component with all small ones, which may be pieces of it; if none is large, all cells."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0
    large = np.flatnonzero(sizes > MIN_COMPONENT)
    small = mask & (sizes[labels] <= MIN_COMPONENT)
    if not len(large) and small.any():
        yield _cells(small)
    for label in large:
        yield _cells(small | (labels == label))


def _cells(mask: NDArray[np.bool_]) -> tuple[Cells, Cells]:
    rows, columns = np.nonzero(mask)
    return rows, columns


def _line(
    heat: NDArray[np.float32], matrix: SimilarityMatrix, rows: Cells, columns: Cells, deviation_cost: float
) -> Segment | None:
    # Here, as importing scikit-learn takes more than a second, and few runs use this rule.
    from sklearn.exceptions import UndefinedMetricWarning  # noqa: PLC0415
    from sklearn.linear_model import RANSACRegressor  # noqa: PLC0415

    if len(np.unique(rows)) <= MIN_FRAMES:
        return None
    ransac = RANSACRegressor(max_trials=TRIALS, random_state=SEED, residual_threshold=RANSAC_FRAMES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # for the score of a sample of two cells
            ransac.fit(rows[:, None], columns, sample_weight=heat[rows, columns].astype(np.float64) ** 2)
    except ValueError:  # scikit-learn found no consensus set
        return None
    slope = float(ransac.estimator_.coef_[0])
    if slope <= 0:
        return None
    inliers = np.abs(columns - ransac.predict(rows[:, None])) < INLIER_FRAMES
    rows, columns = rows[inliers], columns[inliers]
    if len(rows) <= MIN_INLIERS or min(len(np.unique(rows)), len(np.unique(columns))) <= MIN_FRAMES:
        return None
    query, reference = matrix.query_times[rows[[0, -1]], 0], matrix.reference_times[columns[[0, -1]], 0]
    if reference[0] >= reference[1]:
        return None
    line_heat = heat[rows, columns]
    score = line_heat.max() - deviation_cost * line_heat.std() - SPEED_COST * abs(max(slope, 1.0 / slope) - 1.0)
    return Segment(float(query[0]), float(query[1]), float(reference[0]), float(reference[1]), float(score))
