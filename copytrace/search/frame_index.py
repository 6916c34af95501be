"""Which reference frames are nearest to each query frame: all of them compared block by block, or inverted lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np

from copytrace.arrays import Floats, Numbers
from copytrace.errors import CopytraceError

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

BLOCK_ROWS = 1 << 17  # reference frames compared at a time: 128 MiB of 256 numbers
MOST_NEIGHBOURS = 2048  # that faiss finds on a GPU
QUERIES_FOR_BLAS = 20
BLAS_BLOCK_ROWS = 4096  # of each matrix product within: faiss's 1024 takes half as long again
TRAINING_ROWS_PER_LIST = 64
SMALLEST_WITH_LISTS = 10_000  # below, comparing with every frame is as quick
SEED = 1234


class FrameSearch(Protocol):
    """Reference frames ready to be searched, numbered in the order of their blocks."""

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and frame numbers int64 [Q, K].

        Where there are fewer than K frames, cosines are −inf and numbers −1.
        """


class ExactFrameSearch:
    """Compares with every reference frame; `blocks` is called for each search.

    Memory holds `BLOCK_ROWS` frames and what `blocks` yields at once, however many frames there are.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]]) -> None:
        self._blocks = blocks

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`."""
        # Else faiss compares short vectors one by one, at a fraction of the speed.
        faiss.cvar.distance_compute_blas_threshold = QUERIES_FOR_BLAS
        faiss.cvar.distance_compute_blas_database_bs = BLAS_BLOCK_ROWS
        # Not shared by searches: they may run in several threads, and what is in it may not.
        gpu = faiss.StandardGpuResources() if getattr(faiss, "get_num_gpus", int)() else None
        queries = np.ascontiguousarray(queries, np.float32)
        best = np.full((len(queries), neighbours), -np.inf, np.float32)
        rows = np.full((len(queries), neighbours), -1, np.int64)
        start = 0
        for block in _joined(self._blocks(), BLOCK_ROWS):
            found, numbers = _nearest_in(queries, block, min(neighbours, len(block)), gpu)
            together = np.concatenate([best, found], axis=1)
            order = np.argsort(-together, axis=1, kind="stable")[:, :neighbours]
            best = np.take_along_axis(together, order, axis=1)
            rows = np.take_along_axis(np.concatenate([rows, numbers + start], axis=1), order, axis=1)
            start += len(block)
        return best, rows


class ListFrameSearch:
    """Inverted lists of half-precision vectors: each query frame looks into the `lists_searched` nearest.

    Memory holds 2·D + 8 bytes per frame, on the CPU. To make it costs as much as to search it with thousands of frames.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]], count: int, *, lists_searched: int) -> None:
        # Comparing with √N centres and with the frames of a few lists of √N then cost about the same.
        lists = 1 << round(np.log2(2 * count**0.5))
        sample = _sample(blocks(), count, lists * TRAINING_ROWS_PER_LIST)
        coarse = faiss.IndexFlatIP(sample.shape[1])
        kind = faiss.ScalarQuantizer.QT_fp16
        index: Any = faiss.IndexIVFScalarQuantizer(
            coarse, sample.shape[1], lists, kind, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.niter, index.cp.seed, index.cp.spherical = 10, SEED, True
        index.nprobe = min(lists_searched, lists)
        index.train(sample)
        for block in _joined(blocks(), BLOCK_ROWS):
            index.add(block)
        self._index = index

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`; frames in lists that are not looked into are missed."""
        found, rows = self._index.search(np.ascontiguousarray(queries, np.float32), neighbours)
        return np.where(rows < 0, np.float32(-np.inf), found), rows


def build_frame_search(
    blocks: Callable[[], Iterable[Floats]], count: int, *, exact: bool, lists_searched: int
) -> FrameSearch:
    """Make `count` reference frames searchable; `blocks()` yields them as float32 [N, D], each time in one order.

    Inverted lists unless `exact`, or for so few frames that comparing with all of them is as quick.
    """
    if exact or count < SMALLEST_WITH_LISTS:
        return ExactFrameSearch(blocks)
    return ListFrameSearch(blocks, count, lists_searched=lists_searched)


def _nearest_in(queries: Floats, block: Floats, neighbours: int, gpu: Any) -> tuple[Floats, Numbers]:
    block = np.ascontiguousarray(block, np.float32)
    search: Any = partial(faiss.knn_gpu, gpu) if gpu else faiss.knn
    found: tuple[Floats, Numbers] = search(queries, block, neighbours, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def _joined(blocks: Iterable[Floats], rows: int) -> Iterator[Floats]:
    """Join small blocks until they have `rows` rows or more."""
    waiting: list[Floats] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= rows:
            yield np.concatenate(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _sample(blocks: Iterable[Floats], count: int, wanted: int) -> Floats:
    """Take rows at even distances from all blocks: at least `wanted` of `count`, or else all."""
    step, start, chosen = max(count // wanted, 1), 0, []
    for block in blocks:
        chosen.append(block[-start % step :: step])
        start += len(block)
    return np.concatenate(chosen)
