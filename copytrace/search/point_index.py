"""Search of the reference points nearest to query points, by faiss: in inverted lists, or in all points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.errors import CopytraceError
from copytrace.features.points import DIMENSIONS, Bytes
from copytrace.index.point_files import View

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

TRAINING_POINTS_PER_LIST = 64
SMALLEST_WITH_LISTS = 4_000  # points; with fewer, comparing with all of them is as fast
QUERIES_FOR_BLAS = 20  # from this number of queries on, faiss multiplies matrices
SEED = 1234


@dataclass(frozen=True, slots=True)
class PointIndex:
    """An index in which reference points are searched.

    `image` int32 [N] is the number of the reference of each point. `geometry` float32 [N, 4] has x, y, scale and
    angle; `center` float32 [R, 2] is the center of each reference. Lengths are in short sides of the reference.
    """

    index: faiss.Index
    image: NDArray[np.int32]
    geometry: Floats
    center: Floats
    ids: tuple[str, ...]

    def search(self, descriptors: Bytes, neighbours: int) -> tuple[Floats, Numbers]:
        """Return squared distances float32 [Q, K], nearest first, and point numbers int64 [Q, K].

        Where there are fewer than K points, numbers are −1, and distances the greatest float32, as in faiss.
        """
        if not len(self.image):
            shape = (len(descriptors), neighbours)
            return np.full(shape, np.finfo(np.float32).max), np.full(shape, -1, np.int64)
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
    if getattr(faiss, "get_num_gpus", int)() == 0:
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_all_gpus(index, options)
