"""Search of the reference vectors nearest to each query vector, and how similar unrelated ones are to it: its noise."""

from __future__ import annotations

import threading
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

BLOCK_ROWS = 1 << 14  # vectors compared at a time, 16 MiB of 256 numbers: larger blocks are new memory each time
MAX_NEIGHBORS = 2048  # faiss on a GPU finds no more
QUERIES_FOR_BLAS = 20  # from this number of queries on, faiss multiplies matrices
BLAS_BLOCK_ROWS = 4096  # reference frames per matrix product; faiss's own 1024 takes half as long again

UNKNOWN_NOISE = 0.3  # typical noise of a model whose file does not state it

_own = threading.local()


class FrameSearch(Protocol):
    """A search of reference frames, which are numbered in the order of their blocks."""

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and frame numbers int64 [Q, K].

        Where there are fewer than K frames, cosines are −inf and numbers −1.
        """


class ExactFrameSearch:
    """A search that compares with every reference frame; it calls `blocks` for each search.

    Memory holds `BLOCK_ROWS` frames and one block that `blocks` yields, however many frames there are.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]]) -> None:
        self._blocks = blocks

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`."""
        # Otherwise faiss compares short vectors one by one, at a fraction of the speed.
        faiss.cvar.distance_compute_blas_threshold = QUERIES_FOR_BLAS
        faiss.cvar.distance_compute_blas_database_bs = BLAS_BLOCK_ROWS
        gpu = _gpu_resources()
        queries = np.ascontiguousarray(queries, np.float32)
        best = np.full((len(queries), neighbours), -np.inf, np.float32)
        rows = np.full((len(queries), neighbours), -1, np.int64)
        start = 0
        for block in _join_blocks(self._blocks(), BLOCK_ROWS):
            found, numbers = _search_block(queries, block, min(neighbours, len(block)), gpu)
            together = np.concatenate([best, found], axis=1)
            order = np.argsort(-together, axis=1, kind="stable")[:, :neighbours]
            best = np.take_along_axis(together, order, axis=1)
            rows = np.take_along_axis(np.concatenate([rows, numbers + start], axis=1), order, axis=1)
            start += len(block)
        return best, rows


def noise_level(cosines: Floats, neighbours: int, *, typical: float | None, skip: int = 0) -> Floats:
    """Return float32 [Q]: the mean of the `neighbours` greatest cosines to noise, after leaving out the first `skip`.

    The ISC 2021 baseline and VSC 2022 subtract this level, as SSCD does (`weight[first,last]`). Where the references
    themselves serve as noise, the nearest is skipped because it may be the copied one. `cosines` [Q, K] are sorted,
    greatest first, and −inf stands for a missing neighbor. The `typical` level of the model stands in for missing
    neighbors; None means `UNKNOWN_NOISE`.
    """
    level = UNKNOWN_NOISE if typical is None else typical
    chosen = cosines[:, skip : skip + neighbours]
    chosen = np.where(np.isfinite(chosen), chosen, np.float32(level))
    missing = neighbours - chosen.shape[1]
    return np.asarray((chosen.sum(axis=1) + missing * level) / max(neighbours, 1), np.float32)


def _gpu_resources() -> Any:
    """Return faiss's memory on the GPU, which this thread alone uses from now on; None without a GPU.

    Threads must not share it, and to allocate it takes longer than to search a block.
    """
    if not hasattr(_own, "gpu"):
        _own.gpu = faiss.StandardGpuResources() if getattr(faiss, "get_num_gpus", int)() else None
    return _own.gpu


def _search_block(queries: Floats, block: Floats, neighbours: int, gpu: Any) -> tuple[Floats, Numbers]:
    block = np.ascontiguousarray(block, np.float32)
    search: Any = partial(faiss.knn_gpu, gpu) if gpu else faiss.knn
    found: tuple[Floats, Numbers] = search(queries, block, neighbours, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def _join_blocks(blocks: Iterable[Floats], rows: int) -> Iterator[Floats]:
    """Join consecutive blocks until each has `rows` rows or more."""
    waiting: list[Floats] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= rows:
            yield np.concatenate(waiting) if len(waiting) > 1 else block
            waiting, count = [], 0
    if count:
        yield np.concatenate(waiting)
