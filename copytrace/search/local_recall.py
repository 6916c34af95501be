"""Local recall: the references that a query's points vote for, by a search of the nearest reference points.

The rule `vote` is imgFp's. The rule `hough` adds up only votes that agree in position, size and rotation, as in Lowe
2004 §7.3 and the weak geometric consistency of Jégou et al. 2008, so that a few right votes outweigh many stray ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.images import LocalSettings
from copytrace.arrays import Doubles, Floats, Numbers
from copytrace.features.variants import PLAIN, VARIANTS, Variant, read_geometry
from copytrace.index.shard_files import View
from copytrace.search.point_search import PointSearch

ROTATION_BINS = 12
POSITION_BIN = 0.4  # of the reference's short side, as it would appear in the query
SMALLEST_WEIGHT = 0.02
SURE_VOTES = 15  # votes that no unrelated reference gets
SURE_SHARE = 0.6  # of the votes of the best reference
MOST_REFERENCES = 200
PAIRS_FIRST = 64  # whose votes are compared first
_POSITION_RANGE = 4096
_SCALE_RANGE = 32


@dataclass(frozen=True, slots=True)
class LocalCandidate:
    """A reference that a query's points vote for, with the view and the variant that got the votes."""

    query_id: str
    reference_id: str
    votes: float
    view: str
    variant: int


def enabled_variants(settings: LocalSettings) -> tuple[Variant, ...]:
    """Return the variants that the settings enable, the plain one first."""
    return tuple(
        variant
        for variant in VARIANTS
        if (settings.mirrored or not variant.mirrored) and (settings.negative or not variant.negative)
    )


def exclude_none(_: str) -> bool:
    """Return False for any reference: none is the query itself."""
    return False


@dataclass(frozen=True, slots=True)
class _Votes:
    """V votes: weights float64 [V], geometry in the query and in the reference float32 [V, 4], references int64 [V].

    `source` int64 [V] is the view and the variant of the query that a vote comes from: four times the view's number,
    and the variant's.
    """

    weight: Doubles
    here: Floats
    there: Floats
    reference: Numbers
    source: Numbers

    def of(self, chosen: Numbers | NDArray[np.bool_]) -> _Votes:
        return _Votes(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class HoughVotes:
    """The largest sums of votes that agree: of each of N references, by each source that has votes for it.

    `reference` and `source` are int64 [N], as in `_Votes`, and `votes` float64 [N].
    """

    reference: Numbers
    source: Numbers
    votes: Doubles


def recall_by_hough(
    views: Sequence[View], index: PointSearch, settings: LocalSettings, is_itself: Callable[[str], bool] = exclude_none
) -> list[LocalCandidate]:
    """Return the best references of one query by agreeing votes over all its views and variants, best first.

    There may be one more than `most_references`, to show that there are more. `is_itself` tells whether a reference is
    the query, which is left out.
    """
    found = hough_votes(views, index, settings)
    order = np.lexsort((found.source, -found.votes, found.reference))
    _, first = np.unique(found.reference[order], return_index=True)  # of each reference, its best view and variant
    best = order[first]
    best = best[np.argsort(-found.votes[best], kind="stable")][: most_references(settings) + 2]  # the query too
    ids = index.ids.take(pa.array(found.reference[best])).to_pylist()
    named = [(row, image) for row, image in zip(best, ids, strict=True) if not is_itself(image)]
    return [
        LocalCandidate(
            views[0].id,
            image,
            float(found.votes[row]),
            views[found.source[row] // len(VARIANTS)].name,
            int(found.source[row] % len(VARIANTS)),
        )
        for row, image in named[: references_kept([found.votes[row] for row, _ in named], settings)]
    ]


def most_references(settings: LocalSettings) -> int:
    """Return how many references of a query are listed at most."""
    return max(MOST_REFERENCES, settings.references_per_query)


def references_kept(votes: Sequence[float] | Doubles, settings: LocalSettings) -> int:
    """Return how many references of a query are kept, given their votes in descending order.

    They are `references_per_query`, and more if further ones have so many votes that they must be copies of the best:
    up to one more than `most_references`.
    """
    values = np.asarray(votes[: most_references(settings) + 1], np.float64)
    sure = values >= max(SURE_VOTES, SURE_SHARE * values.max(initial=0))
    return max(settings.references_per_query, int(sure.sum()))


def hough_votes(views: Sequence[View], index: PointSearch, settings: LocalSettings) -> HoughVotes:
    """Return the largest sums of votes that agree, at least of each reference that `references_kept` could keep.

    Each query point votes for the references of its nearest points, once for each. A vote weighs more, the nearer its
    point is compared with unrelated points. Its scale, its rotation and the center of the reference in the query fall
    into two bins per dimension; votes in one bin agree.
    """
    if not any(len(view.points) for view in views) or not len(index.ids):
        return HoughVotes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    votes = _votes(views, index, settings)
    # Pairs of a reference and a source are numbered, for bins to be whole numbers.
    sources = len(VARIANTS) * len(views)
    pairs, pair = np.unique(votes.reference * sources + votes.source, return_inverse=True)
    total = np.bincount(pair, votes.weight, minlength=len(pairs))
    # A pair cannot have more agreeing votes than votes, so those with the most set a bound to the others.
    first = np.argsort(-total, kind="stable")[:PAIRS_FIRST]
    chosen = np.isin(pair, first)
    bound = _bound(*_agreeing(votes.of(chosen), pair[chosen], index.center), pairs // sources, settings)
    chosen = total[pair] >= bound
    agreeing, sums = _agreeing(votes.of(chosen), pair[chosen], index.center)
    return HoughVotes(pairs[agreeing] // sources, pairs[agreeing] % sources, sums)


def _bound(pairs: Numbers, sums: Doubles, reference: Numbers, settings: LocalSettings) -> float:
    """Return the fewest votes with which a reference may be kept, given the agreeing votes of some pairs."""
    _, place = np.unique(reference[pairs], return_inverse=True)
    best = np.zeros(place.max(initial=-1) + 1)
    np.maximum.at(best, place, sums)
    best = np.sort(best)[::-1]
    if len(best) <= settings.references_per_query:
        return 0.0
    sure = max(SURE_VOTES, SURE_SHARE * best[0])
    return float(min(sure, best[settings.references_per_query - 1]))


def _agreeing(votes: _Votes, pair: Numbers, center: Floats) -> tuple[Numbers, Doubles]:
    """Return pairs int64 [P], ascending, and the largest sum of agreeing votes of each, float64 [P]."""
    here, there = votes.here, votes.there
    scale = here[:, 2] / there[:, 2]
    rotation = (here[:, 3] - there[:, 3]) % (2 * np.pi)
    cosine, sine = np.cos(rotation) * scale, np.sin(rotation) * scale
    arm = center[votes.reference] - there[:, :2]
    center_x = here[:, 0] + cosine * arm[:, 0] - sine * arm[:, 1]
    center_y = here[:, 1] + sine * arm[:, 0] + cosine * arm[:, 1]
    bins = np.concatenate(list(_bins(pair, np.log2(scale), rotation, center_x, center_y)))
    distinct, place = np.unique(bins, return_inverse=True)
    sums = np.bincount(place, np.tile(votes.weight, len(bins) // max(len(pair), 1)), minlength=len(distinct))
    # Bins are sorted, and those of a pair follow one another.
    pairs, starts = np.unique(distinct // (_SCALE_RANGE * ROTATION_BINS * _POSITION_RANGE**2), return_index=True)
    return pairs, np.maximum.reduceat(sums, starts) if len(starts) else np.zeros(0)


def _votes(views: Sequence[View], index: PointSearch, settings: LocalSettings) -> _Votes:
    counts = [len(view.points) for view in views]
    geometry = np.concatenate([view.points.relative_geometry() for view in views])
    view_number = np.repeat(np.arange(len(views)), counts)
    descriptors = np.concatenate([view.points.descriptor for view in views])
    found = index.search(descriptors, settings.neighbours, enabled_variants(settings))
    # How near an unrelated point would be is measured on a sample that ships. The next reference point would do as
    # well, unless it is a copy of this one: then no vote would weigh anything.
    weight = 1 - found.distance.astype(np.float64) / (found.chance[:, None] + 1e-6)
    hits = np.nonzero((found.image >= 0) & (weight > SMALLEST_WEIGHT))
    weight, point, variant = weight[hits], found.query[hits[0]], found.variant[hits]
    here = read_geometry(geometry[point], variant)
    source = len(VARIANTS) * view_number[point] + variant
    votes = _Votes(weight, here, found.geometry[hits], found.image[hits], source)
    # Of repeated patterns, one vote per query point, variant and reference: that of the nearest point.
    order = np.lexsort((-weight, variant, votes.reference, point))
    same = [np.diff(column[order], prepend=-1) == 0 for column in (variant, votes.reference, point)]
    return votes.of(np.sort(order[~np.all(same, axis=0)]))


def _bins(pair: Numbers, log_scale: Floats, rotation: Floats, x: Floats, y: Floats) -> Iterator[Numbers]:
    turn = rotation / (2 * np.pi) * ROTATION_BINS
    for scale_bin in _two_nearest(log_scale):
        size = POSITION_BIN * 2.0 ** (scale_bin + 0.5)
        for turn_bin in _two_nearest(turn):
            head = (pair * _SCALE_RANGE + scale_bin % _SCALE_RANGE) * ROTATION_BINS + turn_bin % ROTATION_BINS
            for x_bin in _two_nearest(x / size):
                for y_bin in _two_nearest(y / size):
                    yield (head * _POSITION_RANGE + x_bin % _POSITION_RANGE) * _POSITION_RANGE + y_bin % _POSITION_RANGE


def _two_nearest(value: Floats) -> Iterable[Numbers]:
    lower = np.floor(value - 0.5).astype(np.int64)
    return lower, lower + 1


@dataclass(frozen=True, slots=True)
class NearestReferences:
    """The nearest reference of each of P query points: ids [P], squared distances float32 [P]; None and ∞ if none."""

    distances: Floats
    ids: NDArray[np.object_]


def nearest_references(
    view: View, index: PointSearch, settings: LocalSettings, is_itself: Callable[[str], bool] = exclude_none
) -> NearestReferences:
    """Find the reference point nearest to each point of a view.

    `is_itself` tells whether a reference is the query, which is left out.
    """
    count = len(view.points)
    distances, ids = np.full(count, np.inf, np.float32), np.full(count, None, object)
    if count == 0 or len(index.ids) == 0:
        return NearestReferences(distances, ids)
    found = index.search(view.points.descriptor, settings.neighbours, [PLAIN])
    own = _own_numbers(found.image, index, is_itself)
    usable = (found.image >= 0) & ~np.isin(found.image, own)
    hit = np.flatnonzero(usable.any(axis=1))
    rank = usable.argmax(axis=1)[hit]
    distance, image, point = found.distance[hit, rank], found.image[hit, rank], found.query[hit]
    order = np.argsort(-distance, kind="stable")  # the nearest row of a query point is written last
    distances[point[order]] = distance[order]
    ids[point[order]] = np.array(index.ids.take(pa.array(image[order])).to_pylist(), object)
    return NearestReferences(distances, ids)


def _own_numbers(found: Numbers, index: PointSearch, is_itself: Callable[[str], bool]) -> Numbers:
    numbers: Numbers = np.unique(found[found >= 0])
    ids = index.ids.take(pa.array(numbers)).to_pylist()
    own: Numbers = numbers[np.array([is_itself(image) for image in ids], bool)]
    return own


def accept_votes(view: View, parts: Sequence[NearestReferences], settings: LocalSettings) -> list[LocalCandidate]:
    """Count a view's votes over all parts of the references, and accept at most one reference (imgFp's rule).

    The first reference is accepted if it has more votes than `min_votes` and than the second one, or, if only one has
    votes, more than `min_votes_alone`, and if their mean squared distance is below `max_mean_distance`.
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
