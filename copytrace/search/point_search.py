"""Searches of the reference points that are nearest to query points."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import CopytraceError
from copytrace.features.points import DIMENSIONS, Bytes
from copytrace.index.image_segments import Segment
from copytrace.index.point_lists import FoundPoints, ListedPoints, PointLists, shipped_quantizer
from copytrace.index.segments import ids_of
from copytrace.index.shard_files import View

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

QUERIES_FOR_BLAS = 20  # from this number of queries on, faiss multiplies matrices


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

    def search(self, descriptors: Bytes, neighbours: int) -> FoundPoints:
        """Return the `neighbours` reference points nearest to each of Q descriptors, uint8 [Q, 128]."""


@dataclass(frozen=True, slots=True)
class ListSearch:
    """A search of the segments of an index, in the few inverted lists that are nearest to each point."""

    parts: Sequence[PointLists]
    ids: pa.Array
    center: Floats
    lists_searched: int

    @classmethod
    def of(cls, segments: Sequence[Segment], *, lists_searched: int) -> ListSearch:
        """Return a search of segments; every image is current in one of them at most."""
        sides = np.concatenate([np.zeros((0, 2), np.float32), *(segment.points.sides for segment in segments)])
        return cls([segment.points for segment in segments], ids_of(segments), _centers(sides), lists_searched)

    def search(self, descriptors: Bytes, neighbours: int) -> FoundPoints:
        """See `PointSearch`."""
        points = descriptors.astype(np.float32)
        quantizer = shipped_quantizer()
        nearest = quantizer.nearest_lists(points, self.lists_searched, {part.lists.nlist for part in self.parts})
        found: list[ListedPoints] = []
        first = 0
        for part in self.parts:
            found.append(part.search(points, nearest[part.lists.nlist], neighbours, first))
            first += len(part.sides)
        distance, image, geometry = (
            np.concatenate([getattr(part, name) for part in found], axis=1)
            for name in ("distance", "image", "geometry")
        )
        order = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
        return FoundPoints(
            np.take_along_axis(distance, order, axis=1),
            np.take_along_axis(image, order, axis=1),
            np.take_along_axis(geometry, order[:, :, None], axis=1),
            quantizer.chance_distance(points, nearest[quantizer.coarse.count]),
        )


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """A search that compares with all points of the references, which are in memory.

    `image` int32 [N] is the number of the reference of each point, and `geometry` float32 [N, 4] its place. `turn` is
    held during a search: threads may search on the CPU together, but on GPUs only in turn.
    """

    index: faiss.Index
    image: NDArray[np.int32]
    geometry: Floats
    center: Floats
    ids: pa.Array
    lists_searched: int
    turn: AbstractContextManager[object]

    @classmethod
    def of(cls, references: Sequence[View], *, lists_searched: int) -> ExactSearch:
        """Return a search of the points of references, one view each."""
        counts = [len(view.points) for view in references]
        geometry = [view.points.relative_geometry() for view in references]
        sides = np.array([(view.points.width, view.points.height) for view in references], np.float32).reshape(-1, 2)
        # By default, faiss compares fewer than 1,000 queries one by one, which takes fifteen times as long. Distances
        # stay exact: sums of squared bytes fit into a float32.
        faiss.cvar.distance_compute_blas_threshold = QUERIES_FOR_BLAS
        index = _move_to_gpus(faiss.IndexFlatL2(DIMENSIONS))
        for view in references:
            if len(view.points):
                index.add(view.points.descriptor.astype(np.float32))
        return cls(
            index,
            np.repeat(np.arange(len(references), dtype=np.int32), counts),
            np.concatenate([np.zeros((0, 4), np.float32), *geometry]),
            _centers(sides),
            pa.array([view.id for view in references], pa.large_string()),
            lists_searched,
            Lock() if _count_gpus() else nullcontext(),
        )

    def search(self, descriptors: Bytes, neighbours: int) -> FoundPoints:
        """See `PointSearch`."""
        points = descriptors.astype(np.float32)
        quantizer = shipped_quantizer()
        chance = quantizer.chance_distance(points, quantizer.coarse.nearest_lists(points, self.lists_searched))
        shape = (len(points), neighbours)
        if not len(self.image):
            nowhere = (
                np.full(shape, np.inf, np.float32),
                np.full(shape, -1, np.int64),
                np.zeros((*shape, 4), np.float32),
            )
            return FoundPoints(*nowhere, chance)
        with self.turn:
            distance, rows = self.index.search(points, neighbours)
        found, rows = rows >= 0, np.maximum(rows, 0)
        image = np.where(found, self.image[rows], -1).astype(np.int64)
        return FoundPoints(np.where(found, distance, np.float32(np.inf)), image, self.geometry[rows], chance)


def _centers(sides: Floats) -> Floats:
    return sides / (2 * sides.min(axis=1, keepdims=True)) if len(sides) else sides


def _move_to_gpus(index: Any) -> Any:
    if not _count_gpus():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_all_gpus(index, options)


def _count_gpus() -> int:
    count: int = getattr(faiss, "get_num_gpus", int)()
    return count
