"""Local recall: the references that a query's points vote for, by a search of the nearest reference points.

The rule `vote` is imgFp's. The rule `hough` adds up only votes that agree in position, size and rotation, as in Lowe
2004 §7.3 and the weak geometric consistency of Jégou et al. 2008, so that a few right votes outweigh many stray ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.images import LocalSettings
from copytrace.arrays import Doubles, Floats, Numbers
from copytrace.errors import CopytraceError
from copytrace.features.points import DIMENSIONS, MIRRORED_ORDER, NEGATIVE_ORDER, Bytes
from copytrace.index.shard_files import View

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

ROTATION_BINS = 12
POSITION_BIN = 0.4  # of the reference's short side, as it would appear in the query
SMALLEST_WEIGHT = 0.02
_POSITION_RANGE = 4096
_SCALE_RANGE = 32

TRAINING_POINTS_PER_LIST = 64
SMALLEST_WITH_LISTS = 4_000  # points; with fewer, comparing with all of them is as fast
QUERIES_FOR_BLAS = 20  # from this number of queries on, faiss multiplies matrices
SEED = 1234


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read a view's points: as they are, mirrored, with inverted colors, or both."""

    mirrored: bool
    negative: bool

    @property
    def number(self) -> int:
        """0 plain, 1 mirrored, 2 negative, 3 both."""
        return self.mirrored + 2 * self.negative

    def read(self, geometry: Floats, descriptors: Bytes) -> tuple[Floats, Bytes]:
        """Return geometry float32 [N, 4] and descriptors uint8 [N, 128] as if the picture had not been edited so."""
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


def recall_by_hough(
    views: Sequence[View], index: PointIndex, settings: LocalSettings, allowed: NDArray[np.bool_] | None = None
) -> list[LocalCandidate]:
    """Return the best references of one query by agreeing votes over all its views and variants, best first.

    `allowed` bool [R] excludes references: the query itself, if queries and references are the same folder.
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


def hough_votes(index: PointIndex, geometry: Floats, descriptors: Bytes, neighbours: int) -> Doubles:
    """Return for each reference the largest sum of votes that agree on its place in the query, float64 [R].

    Each query point votes for the references of its `neighbours` nearest points, once for each. A vote weighs more, the
    nearer its point is compared with the next point after these. Its scale, its rotation and the center of the
    reference in the query fall into two bins per dimension.
    """
    if len(descriptors) == 0 or len(index.image) == 0:
        return np.zeros(len(index.ids))
    weight, query_point, reference_point = _votes(index, descriptors, neighbours)
    reference = index.image[reference_point]
    there, here = index.geometry[reference_point], geometry[query_point]
    scale = here[:, 2] / there[:, 2]
    rotation = (here[:, 3] - there[:, 3]) % (2 * np.pi)
    cosine, sine = np.cos(rotation) * scale, np.sin(rotation) * scale
    arm = index.center[reference] - there[:, :2]
    center_x = here[:, 0] + cosine * arm[:, 0] - sine * arm[:, 1]
    center_y = here[:, 1] + sine * arm[:, 0] + cosine * arm[:, 1]
    bins = np.concatenate(list(_bins(reference.astype(np.int64), np.log2(scale), rotation, center_x, center_y)))
    distinct, place = np.unique(bins, return_inverse=True)
    sums = np.bincount(place, np.tile(weight, len(bins) // max(len(weight), 1)), minlength=len(distinct))
    votes = np.zeros(len(index.ids))
    np.maximum.at(votes, distinct // (_SCALE_RANGE * ROTATION_BINS * _POSITION_RANGE**2), sums)
    return votes


def _votes(index: PointIndex, descriptors: Bytes, neighbours: int) -> tuple[Doubles, Numbers, Numbers]:
    found, points = index.search(descriptors, neighbours + 1)
    distances = found.astype(np.float64)
    # If there is no further point, faiss gives the greatest distance, and every vote counts in full.
    weight = 1 - distances[:, :-1] / (distances[:, -1:] + 1e-6)
    query_point, rank = np.nonzero((points[:, :-1] >= 0) & (weight > SMALLEST_WEIGHT))
    reference_point = points[query_point, rank]
    pairs = query_point * len(index.ids) + index.image[reference_point]
    _, first = np.unique(pairs, return_index=True)  # of repeated patterns, one vote per query point and reference
    query_point, rank, reference_point = query_point[first], rank[first], reference_point[first]
    return weight[query_point, rank], query_point, reference_point


def _bins(reference: Numbers, log_scale: Floats, rotation: Floats, x: Floats, y: Floats) -> Iterator[Numbers]:
    turn = rotation / (2 * np.pi) * ROTATION_BINS
    for scale_bin in _two_nearest(log_scale):
        size = POSITION_BIN * 2.0 ** (scale_bin + 0.5)
        for turn_bin in _two_nearest(turn):
            head = (reference * _SCALE_RANGE + scale_bin % _SCALE_RANGE) * ROTATION_BINS + turn_bin % ROTATION_BINS
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
    view: View, index: PointIndex, settings: LocalSettings, allowed: NDArray[np.bool_] | None = None
) -> NearestReferences:
    """Find the reference point nearest to each point of a view; `allowed` bool [R] excludes references."""
    count = len(view.points)
    distances, ids = np.full(count, np.inf, np.float32), np.full(count, None, object)
    if count == 0 or len(index.image) == 0:
        return NearestReferences(distances, ids)
    # A query's own points are always its nearest, so further ones are searched if a reference is excluded.
    found, points = index.search(view.points.descriptor, 1 if allowed is None else settings.neighbours)
    usable = points >= 0 if allowed is None else (points >= 0) & allowed[index.image[points]]
    hit = np.flatnonzero(usable.any(axis=1))
    rank = usable.argmax(axis=1)[hit]
    distances[hit] = found[hit, rank]
    ids[hit] = np.array(index.ids, object)[index.image[points[hit, rank]]]
    return NearestReferences(distances, ids)


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


@dataclass(frozen=True, slots=True)
class PointIndex:
    """An index in which reference points are searched.

    `image` int32 [N] is the number of the reference of each point. `geometry` float32 [N, 4] has x, y, scale and
    angle; `center` float32 [R, 2] is the center of each reference. Lengths are in short sides of the reference.
    `turn` is held during a search: threads may search an index on the CPU together, but one on GPUs only in turn.
    """

    index: faiss.Index
    image: NDArray[np.int32]
    geometry: Floats
    center: Floats
    ids: tuple[str, ...]
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)

    def search(self, descriptors: Bytes, neighbours: int) -> tuple[Floats, Numbers]:
        """Return squared distances float32 [Q, K], nearest first, and point numbers int64 [Q, K].

        Where there are fewer than K points, numbers are −1, and distances the greatest float32, as in faiss.
        """
        if not len(self.image):
            shape = (len(descriptors), neighbours)
            return np.full(shape, np.finfo(np.float32).max), np.full(shape, -1, np.int64)
        with self.turn:
            distances, points = self.index.search(descriptors.astype(np.float32), neighbours)
        return distances, points


def build_point_index(references: Sequence[View], *, exact: bool, lists_searched: int) -> PointIndex:
    """Build an index of the points of references, one view each. On one machine, it does not depend on threads."""
    descriptors = np.concatenate(
        [np.zeros((0, DIMENSIONS), np.uint8), *(view.points.descriptor for view in references)]
    )
    counts = [len(view.points) for view in references]
    sides = np.array([(view.points.width, view.points.height) for view in references], np.float32).reshape(-1, 2)
    return PointIndex(
        index=_build(descriptors, exact=exact, lists_searched=lists_searched),
        image=np.repeat(np.arange(len(references), dtype=np.int32), counts),
        geometry=np.concatenate(
            [np.zeros((0, 4), np.float32), *(view.points.relative_geometry() for view in references)]
        ),
        center=sides / (2 * sides.min(axis=1, keepdims=True)) if len(sides) else sides,
        ids=tuple(view.id for view in references),
        turn=Lock() if _count_gpus() else nullcontext(),
    )


def _build(descriptors: Bytes, *, exact: bool, lists_searched: int) -> Any:
    index: Any
    # By default, faiss compares fewer than 1,000 queries of 128 numbers one by one, which takes fifteen times as long.
    # Distances stay exact: sums of squared bytes fit into a float32.
    faiss.cvar.distance_compute_blas_threshold = QUERIES_FOR_BLAS
    if exact or len(descriptors) < SMALLEST_WITH_LISTS:
        index = faiss.IndexFlatL2(DIMENSIONS)
    else:
        kind = faiss.ScalarQuantizer.QT_8bit_direct
        # With about √N lists, comparing with their centers costs about as much as comparing with the points of a few.
        lists = 1 << round(np.log2(2 * len(descriptors) ** 0.5))
        coarse = faiss.IndexFlatL2(DIMENSIONS)
        # Without residuals, which are faiss's default: bytes cannot hold negative numbers.
        index = faiss.IndexIVFScalarQuantizer(coarse, DIMENSIONS, lists, kind, faiss.METRIC_L2, False)
        index.cp.niter, index.cp.seed = 8, SEED
        index.nprobe = lists_searched
        step = max(len(descriptors) // (lists * TRAINING_POINTS_PER_LIST), 1)
        index.train(descriptors[::step].astype(np.float32))
    index = _move_to_gpus(index)
    for start in range(0, len(descriptors), 1 << 18):
        index.add(descriptors[start : start + (1 << 18)].astype(np.float32))
    return index


def _move_to_gpus(index: Any) -> Any:
    if not _count_gpus():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_all_gpus(index, options)


def _count_gpus() -> int:
    count: int = getattr(faiss, "get_num_gpus", int)()
    return count
