"""Searches of the reference points that are nearest to query points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.errors import CopytraceError
from copytrace.features.points import DIMENSIONS, Bytes
from copytrace.features.variants import VARIANTS, Variant, read_descriptors
from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import ListedPoints, PointLists
from copytrace.index.point_quantizer import NearestLists, PointQuantizer
from copytrace.index.segments import ids_of
from copytrace.index.shard_files import View
from copytrace.search.vector_search import BLOCK_ROWS, ExactFrameSearch

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

# Bytes are compared times this: they stay exact, also in float16, where squares of bytes themselves could overflow.
SCALE = 1 / 16


@dataclass(frozen=True, slots=True)
class FoundPoints:
    """Reference points near to query points, in E rows of K, nearest first; a query point may have several rows.

    `query` int64 [E] is the query point of each row, and `chance` float32 [E] the squared distance at which an
    unrelated point would be found. `distance` float32 [E, K] is squared. `image` int64 [E, K] is the number of the
    reference; −1, and an infinite distance, if there is no further point. `variant` int64 [E, K] is the number of the
    variant by which the query point is read to look like the reference's. `geometry` float32 [E, K, 4] has x, y, scale
    and angle, in short sides of the reference.
    """

    query: Numbers
    chance: Floats
    distance: Floats
    image: Numbers
    variant: Numbers
    geometry: Floats


class PointSearch(Protocol):
    """A search of the points of references, numbered in the order of `ids`.

    `center` float32 [R, 2] is the center of each reference, in its short sides.
    """

    @property
    def ids(self) -> pa.Array:
        """Ids of the references."""

    @property
    def center(self) -> Floats:
        """See the class."""

    def search(self, descriptors: Bytes, neighbours: int, variants: Sequence[Variant] = VARIANTS) -> FoundPoints:
        """Return the `neighbours` reference points nearest to each of Q descriptors, uint8 [Q, 128].

        Descriptors are read by all `variants`, and points found by others are left out.
        """


@dataclass(frozen=True, slots=True)
class ListSearch:
    """A search of the segments of an index, in the few inverted lists that are nearest to each point."""

    parts: Sequence[PointLists]
    quantizer: PointQuantizer
    ids: pa.Array
    center: Floats
    lists_searched: int

    @classmethod
    def of(cls, segments: Sequence[Segment], quantizer: PointQuantizer, *, lists_searched: int) -> ListSearch:
        """Return a search of segments made by `quantizer`; every image is current in one of them at most."""
        sides = np.concatenate([np.zeros((0, 2), np.float32), *(segment.points.sides for segment in segments)])
        parts = [segment.points for segment in segments]
        return cls(parts, quantizer, ids_of(segments), _centers(sides), lists_searched)

    def search(self, descriptors: Bytes, neighbours: int, variants: Sequence[Variant] = VARIANTS) -> FoundPoints:
        """See `PointSearch`."""
        query, forms, own_variant = self.quantizer.canonical_form.all_likely(descriptors)
        points = forms.astype(np.float32)
        nearest = self.quantizer.nearest_lists(points, self.lists_searched, self._sizes)
        found: list[ListedPoints] = []
        first = 0
        for part in self.parts:
            found.append(
                self._search_part(part, points, nearest[part.lists.nlist], len(descriptors), neighbours, first)
            )
            first += len(part.sides)
        distance, image, variant, geometry = (np.concatenate(column, axis=1) for column in zip(*found, strict=True))
        order = np.lexsort((image, distance), axis=1)[:, :neighbours]
        # A point and another one with the same canonical form are one another's, read by both of their variants.
        variant = np.take_along_axis(variant, order, axis=1) ^ own_variant[:, None]
        wanted = np.isin(variant, [each.number for each in variants])
        return FoundPoints(
            query,
            self.quantizer.chance_distance(points),
            np.where(wanted, np.take_along_axis(distance, order, axis=1), np.float32(np.inf)),
            np.where(wanted, np.take_along_axis(image, order, axis=1), -1),
            variant,
            np.take_along_axis(geometry, order[:, :, None], axis=1),
        )

    @property
    def _sizes(self) -> dict[int, int]:
        """How many points are in the lists of each level, by its count of lists."""
        sizes = Counter[int]()
        for part in self.parts:
            sizes[part.lists.nlist] += part.lists.ntotal
        return dict(sizes)

    def _search_part(
        self, part: PointLists, points: Floats, nearest: NearestLists, likely: int, neighbours: int, first: int
    ) -> ListedPoints:
        """Search a segment; the points after the `likely` ones are forms that descriptors are less likely to have."""
        fewer = self.quantizer.lists_if_unlikely((nearest[0][likely:], nearest[1][likely:]), part.lists.nlist)
        if not len(points) - likely or fewer[1].shape == nearest[1][likely:].shape:
            return part.search(points, nearest, neighbours, first)
        both = [
            part.search(points[:likely], (nearest[0][:likely], nearest[1][:likely]), neighbours, first),
            part.search(points[likely:], fewer, neighbours, first),
        ]
        return ListedPoints(*(np.concatenate(column) for column in zip(*both, strict=True)))


class _Index(Protocol):
    """What ExactSearch needs of an index of faiss."""

    def search(self, points: Floats, neighbours: int, /) -> tuple[Floats, Numbers]:
        """Return the squared distances float32 [Q, K] and the rows int64 [Q, K] of the points nearest to [Q, 128]."""


class PointsInMemory:
    """The points of references, uint8 [N, 128] each, all of which a search on the CPU compares with."""

    def __init__(self, descriptors: Sequence[Bytes]) -> None:
        self._points = np.concatenate([np.zeros((0, DIMENSIONS), np.uint8), *descriptors])
        self._search = ExactFrameSearch(self._blocks)

    def search(self, points: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `_Index`: `points` are bytes times `SCALE`. Of equal distances, the first points are returned.

        Distances are exact, as float32 holds sums of products of bytes.
        """
        # |x - y|^2 = |x|^2 - 2 (xy - |y|^2 / 2): the nearest y has the greatest product of (x, 1) and (y, -|y|^2 / 2).
        products, rows = self._search.nearest(np.pad(points, ((0, 0), (0, 1)), constant_values=1), neighbours)
        return np.square(points).sum(axis=1)[:, None] - 2 * products, rows

    def _blocks(self) -> Iterator[Floats]:
        for start in range(0, len(self._points), BLOCK_ROWS):
            part = self._points[start : start + BLOCK_ROWS]
            block = np.empty((len(part), DIMENSIONS + 1), np.float32)
            np.multiply(part, np.float32(SCALE), out=block[:, :-1])
            block[:, -1] = np.square(block[:, :-1]).sum(axis=1) / -2
            yield block


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """A search that compares with all points of the references, which are in memory.

    `image` int32 [N] is the number of the reference of each point, and `geometry` float32 [N, 4] its place. `turn` is
    held during a search: threads may search on the CPU together, but on GPUs only in turn. Of the `quantizer`, only the
    sample is needed.
    """

    index: _Index
    quantizer: PointQuantizer
    image: NDArray[np.int32]
    geometry: Floats
    center: Floats
    ids: pa.Array
    turn: AbstractContextManager[object]

    @classmethod
    def of(cls, references: Sequence[View], quantizer: PointQuantizer, *, half_precision: bool = False) -> ExactSearch:
        """Return a search of the points of references, one view each.

        With `half_precision`, GPUs hold and compare float16, which takes half the memory. Descriptors stay exact, but a
        squared distance is wrong by up to a thousandth of what each of its two descriptors has as its squared length.
        """
        counts = [len(view.points) for view in references]
        geometry = [view.points.relative_geometry() for view in references]
        sides = np.array([(view.points.width, view.points.height) for view in references], np.float32).reshape(-1, 2)
        descriptors = [view.points.descriptor for view in references]
        indexes = _gpu_indexes(half_precision)
        return cls(
            fill_indexes(indexes, descriptors, SCALE) if indexes else PointsInMemory(descriptors),
            quantizer,
            np.repeat(np.arange(len(references), dtype=np.int32), counts),
            np.concatenate([np.zeros((0, 4), np.float32), *geometry]),
            _centers(sides),
            pa.array([view.id for view in references], pa.large_string()),
            Lock() if indexes else nullcontext(),
        )

    def search(self, descriptors: Bytes, neighbours: int, variants: Sequence[Variant] = VARIANTS) -> FoundPoints:
        """See `PointSearch`."""
        numbers = np.repeat([variant.number for variant in variants], len(descriptors))
        query = np.tile(np.arange(len(descriptors)), len(variants))
        read = read_descriptors(descriptors[query], numbers)
        points = read.astype(np.float32) * SCALE
        canonical = self.quantizer.canonical_form.of(read)[0]
        chance = self.quantizer.chance_distance(canonical.astype(np.float32))
        shape = (len(points), neighbours)
        variant = np.broadcast_to(numbers[:, None], shape)
        if not len(self.image):
            nowhere = np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
            return FoundPoints(query, chance, *nowhere, variant, np.zeros((*shape, 4), np.float32))
        with self.turn:
            distance, rows = self.index.search(points, neighbours)
        found, rows = rows >= 0, np.maximum(rows, 0)
        image = np.where(found, self.image[rows], -1).astype(np.int64)
        distance = np.where(found, distance, np.float32(np.inf))
        distance /= np.float32(SCALE**2)
        return FoundPoints(query, chance, distance, image, variant, self.geometry[rows])


def _centers(sides: Floats) -> Floats:
    return sides / (2 * sides.min(axis=1, keepdims=True)) if len(sides) else sides


def fill_indexes(indexes: Sequence[Any], descriptors: Sequence[Bytes], scale: float = 1.0) -> Any:
    """Divide points, uint8 [N, 128] of each reference, among empty indexes of faiss, and return one of all of them.

    The indexes hold the points times `scale`. The returned one numbers the points in their order. Each index gets whole
    references, one after another, as faiss adds to joined indexes only once.
    """
    ends = np.cumsum([len(each) for each in descriptors])
    total = int(ends[-1]) if len(ends) else 0
    for number, part in enumerate(descriptors):
        if len(part):
            indexes[int(ends[number] - 1) * len(indexes) // total].add(part.astype(np.float32) * scale)
    if len(indexes) == 1:
        return indexes[0]
    make: Any = faiss.IndexShards
    joined = make(DIMENSIONS, True, True)  # searched by a thread each, numbered one after another
    for index in indexes:
        joined.add_shard(index)
    return joined


def _gpu_indexes(half_precision: bool) -> list[Any]:
    """Return an exact index on each GPU; none without a GPU."""
    gpus = range(_count_gpus())
    if not gpus:
        return []
    options, empty = faiss.GpuClonerOptions(), faiss.IndexFlatL2(DIMENSIONS)
    options.useFloat16 = half_precision
    return [faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpu, empty, options) for gpu in gpus]


def _count_gpus() -> int:
    count: int = getattr(faiss, "get_num_gpus", int)()
    return count
