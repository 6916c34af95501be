"""Confirmation: what speaks for a copy, and against pictures of one origin, where the points of a pair agree.

Points of two pages, charts or windows of one origin agree where their frame and their letters are the same, and so do
those of two logos with a letter in common. In a copy, nearly every part that has points in either picture is confirmed
by a point that lies there in both. In most photographs, no point looks like another one of the same picture; letters,
corners and marks do, and what repeats is found at one place or another by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from copytrace.arrays import Doubles, Floats, Numbers
from copytrace.features.points import Bytes, Points
from copytrace.features.variants import Variant, read_geometry
from copytrace.matching.verification import Verification, squared_distances

GRID = 8  # cells of the reference, along each side
FEWEST_IN_CELL = 2  # points of either picture that a cell needs to count
NEAR = 0.02  # of the short side, or half the point's scale: how far a point may lie from where it is expected
OCTAVES, RADIANS = 0.8, 0.5  # how much its scale and its angle may differ
# A point is confirmed at up to twice the median distance of the inliers, so that the same holds for pictures that were
# edited much and for those that were only encoded again.
TIMES_MEDIAN, LEAST_MEDIAN = 2.0, 500.0
ELSEWHERE = 0.012  # of the short side: points nearer than this are one place
FARTHEST = np.float32(2 * 255**2)  # the largest squared distance of two root-SIFT descriptors
SMALLEST = 0.02  # quantile of a picture's scales below which its detector finds nothing


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the inliers of a pair are worth.

    `distance` is the median of the inliers' squared distances, of uint8 descriptors. `uniqueness` is the median of the
    squared distances to the most similar other point of the same picture, in that of the two pictures where it is less,
    and `points` the number of points in the picture that has fewer.
    `share` is that of the reference's cells, 0 to 1, in which a point of one picture confirms one of the other.
    """

    distance: float
    uniqueness: float
    points: int
    share: float


def confirm(query: Points, reference: Points, variant: Variant, found: Verification) -> Confirmation | None:
    """Return the confirmation of a pair, or None if no transform was found.

    `query` is the view that shows the reference, read as `variant`.
    """
    if found.placement is None:
        return None
    geometry, descriptors = variant.read(query.relative_geometry(), query.descriptor)
    here, there = found.rows.T
    apart = descriptors[here].astype(np.float32) - reference.descriptor[there]
    distance = float(np.median((apart**2).sum(axis=1)))
    others = np.minimum(
        _nearest_other(geometry, descriptors, here),
        _nearest_other(reference.relative_geometry(), reference.descriptor, there),
    )
    share = confirmed_share(query, reference, variant, found.placement, distance)
    return Confirmation(distance, float(np.median(others)), min(len(query), len(reference)), share)


def _nearest_other(geometry: Floats, descriptors: Bytes, rows: Numbers) -> Floats:
    """Return the squared distances of some rows' descriptors to the most similar one elsewhere in the picture."""
    distances = squared_distances(descriptors[rows], descriptors)
    apart = ((geometry[rows, None, :2] - geometry[None, :, :2]) ** 2).sum(axis=2)
    return np.asarray(np.where(apart < ELSEWHERE**2, FARTHEST, distances).min(axis=1), np.float32)


def confirmed_share(
    query: Points, reference: Points, variant: Variant, placement: Doubles, median_distance: float
) -> float:
    """Return the `share` of a `Confirmation`.

    `placement` float64 [2, 3] leads from the reference to the query, both in short sides. `median_distance` is that of
    the inliers, squared. Cells outside the view, or with fewer than `FEWEST_IN_CELL` points that both detectors could
    find, do not count; 0 if no cell counts.
    """
    here, descriptors = variant.read(query.relative_geometry(), query.descriptor)
    there = reference.relative_geometry()
    if not len(here) or not len(there):
        return 0.0
    laid = _place(there, placement)
    back = _place(here, _inverse(placement))
    in_view = read_geometry(laid, np.full(len(laid), variant.number))
    shown = _inside(in_view, query) & (laid[:, 2] > np.quantile(here[:, 2], SMALLEST))
    seen = _inside(back, reference) & (back[:, 2] > np.quantile(there[:, 2], SMALLEST))
    rows, columns = np.flatnonzero(shown), np.flatnonzero(seen)
    pairs = _near(laid[rows], here[columns])
    apart = reference.descriptor[rows[pairs[0]]].astype(np.float32) - descriptors[columns[pairs[1]]]
    alike = (apart**2).sum(axis=1) < TIMES_MEDIAN * max(median_distance, LEAST_MEDIAN)
    cells = np.concatenate([_cells(there[rows], reference), _cells(back[columns], reference)])
    confirmed = np.zeros(len(cells), bool)
    confirmed[pairs[0][alike]] = confirmed[len(rows) + pairs[1][alike]] = True
    sides = np.repeat([0, GRID**2], [len(rows), len(columns)])
    points = np.bincount(cells + sides, minlength=2 * GRID**2).reshape(2, -1)
    counted = points.max(axis=0) >= FEWEST_IN_CELL
    found = np.bincount(cells[confirmed], minlength=GRID**2) > 0
    return float((found & counted).sum() / counted.sum()) if counted.any() else 0.0


def _place(geometry: Floats, transform: Doubles) -> Floats:
    """Return geometry float32 [N, 4] under an affine transform; of scale and angle, under its nearest similarity."""
    linear = transform[:, :2]
    placed = geometry.copy()
    placed[:, :2] = geometry[:, :2] @ linear.T + transform[:, 2]
    placed[:, 2] *= np.sqrt(abs(np.linalg.det(linear)))
    placed[:, 3] += np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    return placed


def _inverse(transform: Doubles) -> Doubles:
    linear = np.linalg.inv(transform[:, :2])
    return np.concatenate([linear, -linear @ transform[:, 2:]], axis=1)


def _inside(geometry: Floats, picture: Points) -> np.ndarray:
    """Return which rows lie within a picture, bool [N]."""
    x, y = geometry[:, 0], geometry[:, 1]
    side = min(picture.width, picture.height)
    return np.asarray((x > 0) & (x < picture.width / side) & (y > 0) & (y < picture.height / side))


def _near(first: Floats, second: Floats) -> tuple[Numbers, Numbers]:
    """Return the rows of `first` and those of `second` of all pairs with like places, scales and angles."""
    reach = np.maximum(NEAR, 0.5 * second[:, 2])
    apart = (first[:, None, 0] - second[:, 0]) ** 2 + (first[:, None, 1] - second[:, 1]) ** 2
    a, b = np.nonzero(apart < reach**2)
    octaves = np.abs(np.log2(first[a, 2] / second[b, 2]))
    turn = np.abs((first[a, 3] - second[b, 3] + np.pi) % (2 * np.pi) - np.pi)
    kept = (octaves < OCTAVES) & (turn < RADIANS)
    return a[kept], b[kept]


def _cells(geometry: Floats, picture: Points) -> Numbers:
    """Return the number of each row's cell in a picture, int64 [N]."""
    side = min(picture.width, picture.height)
    column = np.clip(geometry[:, 0] * side / picture.width * GRID, 0, GRID - 1).astype(np.int64)
    row = np.clip(geometry[:, 1] * side / picture.height * GRID, 0, GRID - 1).astype(np.int64)
    return row * GRID + column
