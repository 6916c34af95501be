"""Search of the reference vectors nearest to each query vector, and how similar unrelated ones are to it: its noise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from copytrace.arrays import Floats, Numbers
from copytrace.errors import CopytraceError
from copytrace.search.nearest_hits import NearestHits

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

BLOCK_ROWS = 1 << 14  # vectors compared at a time, 16 MiB of 256 numbers: larger blocks are new memory each time
TILE_ROWS = 512  # queries that a thread compares with a block at a time: 32 MiB of cosines
MAX_NEIGHBORS = 2048  # faiss on a GPU finds no more

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

    Memory holds `BLOCK_ROWS` frames and one block that `blocks` yields, however many frames there are, and `TILE_ROWS`
    times as many cosines per thread. There may be 2^32 frames.

    On the CPU, a tile of queries is multiplied with a block by BLAS, and only cosines above the least of the K greatest
    so far are looked at again, which are fewer and fewer. faiss's search, whose BLAS is another and which sorts K
    neighbors per block, takes three to five times as long.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]]) -> None:
        self._blocks = blocks

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`. Of equal cosines, those of the first frames are returned, in their order."""
        queries = np.ascontiguousarray(queries, np.float32)
        hits, gpu, first = NearestHits(len(queries), neighbours), _gpu_resources(), 0
        tiles = [slice(start, start + TILE_ROWS) for start in range(0, len(queries), TILE_ROWS)]
        with _threads(1 if gpu else len(tiles)) as apply:
            for block in _join_blocks(self._blocks(), BLOCK_ROWS):
                if gpu:
                    found = min(neighbours, len(block))
                    cosines, rows = faiss.knn_gpu(gpu, queries, block, found, metric=faiss.METRIC_INNER_PRODUCT)
                    hits.add(cosines, np.where(rows < 0, -1, rows + first))
                else:
                    apply(partial(hits.compare, queries, vectors=block, first=first), tiles)
                first += len(block)
        return hits.sorted()


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


@contextmanager
def _threads(tiles: int) -> Iterator[Callable[[Callable[[slice], None], Sequence[slice]], object]]:
    """Yield what applies a function to all tiles: by threads that take a core each, as many as faiss may have."""
    threads = min(tiles, faiss.omp_get_max_threads())
    if threads <= 1:
        yield lambda function, slices: list(map(function, slices))
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield lambda function, slices: list(pool.map(function, slices))


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
