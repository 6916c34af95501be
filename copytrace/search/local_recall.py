"""Local recall: which references do a query's points vote for?

`vote` is imgFp's rule. `hough` is ours: a vote counts with others that ask for the same place, size and rotation, as
in Lowe 2004 §7.3 and the weak geometric consistency of Jégou et al. 2008: a few right votes outweigh many stray ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.images import LocalSettings
from copytrace.arrays import Floats
from copytrace.features.points import MIRRORED_ORDER, NEGATIVE_ORDER, Bytes
from copytrace.index.point_files import View
from copytrace.search.point_index import PointIndex

ROTATION_BINS = 12
POSITION_BIN = 0.4  # of the reference's short side, as it would appear in the query
SMALLEST_WEIGHT = 0.02
_POSITION_RANGE = 4096
_SCALE_RANGE = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read a view's points: as they are, mirrored, as a colour negative, or both."""

    mirrored: bool
    negative: bool

    @property
    def number(self) -> int:
        """0 plain, 1 mirrored, 2 negative, 3 both."""
        return self.mirrored + 2 * self.negative

    def read(self, geometry: Floats, descriptors: Bytes) -> tuple[Floats, Bytes]:
        """Return geometry float32 [N, 4] and descriptors uint8 [N, 128] as they would be of the unedited picture."""
        geometry = geometry.copy()
        if self.mirrored:
            descriptors = descriptors[:, MIRRORED_ORDER]
            geometry[:, 1] *= -1
            geometry[:, 3] *= -1
        if self.negative:
            descriptors = descriptors[:, NEGATIVE_ORDER]
            geometry[:, 3] += np.pi
        return geometry, descriptors


VARIANTS = tuple(Variant(mirrored, negative) for negative in (False, True) for mirrored in (False, True))


@dataclass(frozen=True, slots=True)
class LocalCandidate:
    """A reference that a query's points vote for, and in which view and variant they do."""

    query_id: str
    reference_id: str
    votes: float
    view: str
    variant: int


def enabled_variants(settings: LocalSettings) -> tuple[Variant, ...]:
    """Return the variants that the settings ask for, the plain one first."""
    return tuple(
        variant
        for variant in VARIANTS
        if (settings.mirrored or not variant.mirrored) and (settings.negative or not variant.negative)
    )


def recall_by_hough(
    views: Sequence[View], index: PointIndex, settings: LocalSettings, allowed: NDArray[np.bool_] | None = None
) -> list[LocalCandidate]:
    """Return the best references of one query by agreeing votes over all its views and variants, best first.

    `allowed` bool [R] leaves references out (the query itself, where queries and references are the same folder).
    """
    best = np.zeros(len(index.ids))
    found_in = np.zeros((len(index.ids), 2), np.int32)
    for number, view in enumerate(views):
        for variant in enabled_variants(settings):
            geometry, descriptors = variant.read(view.points.relative_geometry(), view.points.descriptor)
            votes = hough_votes(index, geometry, descriptors, settings.neighbours)
            better = votes > best
            best[better] = votes[better]
            found_in[better] = number, variant.number
    if allowed is not None:
        best[~allowed] = 0
    order = np.lexsort((np.arange(len(best)), -best))[: settings.references_per_query]
    return [
        LocalCandidate(views[0].id, index.ids[n], float(best[n]), views[found_in[n, 0]].name, int(found_in[n, 1]))
        for n in order
        if best[n] > 0
    ]


def hough_votes(index: PointIndex, geometry: Floats, descriptors: Bytes, neighbours: int) -> NDArray[np.float64]:
    """Return float64 [R]: for each reference the largest sum of votes that agree on where it lies in the query.

    Each query point votes once for the reference of each of its nearest points, the more the nearer that point is
    than the first one left out. A vote's scale, rotation and place of the reference's centre fall into bins, two per
    dimension.
    """
    if len(descriptors) == 0 or len(index.image) == 0:
        return np.zeros(len(index.ids))
    weight, query_point, reference_point = _votes(index, descriptors, neighbours)
    reference = index.image[reference_point]
    there, here = index.geometry[reference_point], geometry[query_point]
    scale = here[:, 2] / there[:, 2]
    rotation = (here[:, 3] - there[:, 3]) % (2 * np.pi)
    cosine, sine = np.cos(rotation) * scale, np.sin(rotation) * scale
    arm = index.centre[reference] - there[:, :2]
    centre_x = here[:, 0] + cosine * arm[:, 0] - sine * arm[:, 1]
    centre_y = here[:, 1] + sine * arm[:, 0] + cosine * arm[:, 1]
    bins = np.concatenate(list(_bins(reference.astype(np.int64), np.log2(scale), rotation, centre_x, centre_y)))
    distinct, place = np.unique(bins, return_inverse=True)
    sums = np.bincount(place, np.tile(weight, len(bins) // max(len(weight), 1)), minlength=len(distinct))
    votes = np.zeros(len(index.ids))
    np.maximum.at(votes, distinct // (_SCALE_RANGE * ROTATION_BINS * _POSITION_RANGE**2), sums)
    return votes


def _votes(
    index: PointIndex, descriptors: Bytes, neighbours: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    found, points = index.search(descriptors, neighbours + 1)
    distances = found.astype(np.float64)
    # Where no point is left out, its distance is the greatest there is, and every vote counts in full.
    weight = 1 - distances[:, :-1] / (distances[:, -1:] + 1e-6)
    query_point, rank = np.nonzero((points[:, :-1] >= 0) & (weight > SMALLEST_WEIGHT))
    reference_point = points[query_point, rank]
    pairs = query_point * len(index.ids) + index.image[reference_point]
    _, first = np.unique(pairs, return_index=True)  # repeated patterns: one vote per query point and reference
    query_point, rank, reference_point = query_point[first], rank[first], reference_point[first]
    return weight[query_point, rank], query_point, reference_point


def _bins(
    reference: NDArray[np.int64], log_scale: Floats, rotation: Floats, x: Floats, y: Floats
) -> Iterator[NDArray[np.int64]]:
    turn = rotation / (2 * np.pi) * ROTATION_BINS
    for scale_bin in _two_nearest(log_scale):
        size = POSITION_BIN * 2.0 ** (scale_bin + 0.5)
        for turn_bin in _two_nearest(turn):
            head = (reference * _SCALE_RANGE + scale_bin % _SCALE_RANGE) * ROTATION_BINS + turn_bin % ROTATION_BINS
            for x_bin in _two_nearest(x / size):
                for y_bin in _two_nearest(y / size):
                    yield (head * _POSITION_RANGE + x_bin % _POSITION_RANGE) * _POSITION_RANGE + y_bin % _POSITION_RANGE


def _two_nearest(value: Floats) -> Iterable[NDArray[np.int64]]:
    lower = np.floor(value - 0.5).astype(np.int64)
    return lower, lower + 1


@dataclass(frozen=True, slots=True)
class NearestReferences:
    """Of each of P query points the nearest reference's id [P] and squared distance float32 [P]; None and ∞ if none."""

    distances: Floats
    ids: NDArray[np.object_]


def recall_by_vote(
    view: View, index: PointIndex, settings: LocalSettings, allowed: NDArray[np.bool_] | None = None
) -> list[LocalCandidate]:
    """Return at most one reference for one view, by imgFp's rule: see `accept_votes`."""
    return accept_votes(view, [nearest_references(view, index, settings, allowed)], settings)


def nearest_references(
    view: View, index: PointIndex, settings: LocalSettings, allowed: NDArray[np.bool_] | None = None
) -> NearestReferences:
    """Find for each point of a view the nearest reference point of `index`; infinitely far where none is allowed."""
    count = len(view.points)
    distances, ids = np.full(count, np.inf, np.float32), np.full(count, None, object)
    if count == 0 or len(index.image) == 0:
        return NearestReferences(distances, ids)
    # Where references are left out, their points are passed over: a query's own are always its nearest.
    found, points = index.search(view.points.descriptor, 1 if allowed is None else settings.neighbours)
    usable = points >= 0 if allowed is None else (points >= 0) & allowed[index.image[points]]
    hit = np.flatnonzero(usable.any(axis=1))
    rank = usable.argmax(axis=1)[hit]
    distances[hit] = found[hit, rank]
    ids[hit] = np.array(index.ids, object)[index.image[points[hit, rank]]]
    return NearestReferences(distances, ids)


def accept_votes(view: View, parts: Sequence[NearestReferences], settings: LocalSettings) -> list[LocalCandidate]:
    """Count a view's votes over all parts of the references, and accept at most one reference (imgFp's rule).

    Accepted are more than `min_votes` votes that are also more than the second's (more than `min_votes_alone` when only
    one reference was hit), with a mean squared distance below `max_mean_distance`.
    """
    distances = np.stack([part.distances for part in parts])
    nearest = distances.argmin(axis=0) if len(view.points) else np.zeros(0, np.int64)
    points = np.arange(len(nearest))
    distance, reference = distances[nearest, points], np.stack([part.ids for part in parts])[nearest, points]
    hit = np.isfinite(distance)
    names, votes = np.unique(reference[hit].astype(str), return_counts=True)
    if not len(names):
        return []
    first = int(votes.argmax())
    second = int(np.delete(votes, first).max(initial=0))
    enough = votes[first] > (max(settings.min_votes, second) if second else settings.min_votes_alone)
    mean_distance = distance[hit][reference[hit] == names[first]].mean()
    if not enough or mean_distance >= settings.max_mean_distance:
        return []
    return [LocalCandidate(view.id, str(names[first]), float(votes[first]), view.name, 0)]
