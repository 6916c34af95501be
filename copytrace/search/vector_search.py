"""Search of the reference vectors nearest to each query vector, and how similar unrelated ones are to it: its noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from threading import Lock
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
GPU_BLOCK_ROWS = 1 << 18  # vectors that a GPU compares at a time: fewer, and joining what it finds would take longer
MAX_NEIGHBORS = 2048  # faiss on a GPU finds no more

UNKNOWN_NOISE = 0.3  # typical noise of a model whose file does not state it

Blocks = Iterable[tuple[int, Floats]]
"""Vectors float32 [N, D], each block with the number of its first row."""


class FrameSearch(Protocol):
    """A search of reference frames, which are numbered in the order of their blocks."""

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and frame numbers int64 [Q, K].

        Where there are fewer than K frames, cosines are −inf and numbers −1.
        """


class ExactFrameSearch:
    """A search that compares with every reference frame; it calls `blocks` for each search.

    Memory holds `BLOCK_ROWS` frames, or `GPU_BLOCK_ROWS` per GPU, and one block that `blocks` yields, however many
    frames there are, and `TILE_ROWS` times as many cosines per thread. There may be 2^32 frames.

    On the CPU, a tile of queries is multiplied with a block by BLAS, and only cosines above the least of the K greatest
    so far are looked at again, which are fewer and fewer. faiss's search, whose BLAS is another and which sorts K
    neighbors per block, takes two or three times as long. GPUs, which faiss searches, take a block each.
    """

    def __init__(self, blocks: Callable[[], Iterable[Floats]]) -> None:
        self._blocks = blocks

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """See `FrameSearch`. Of equal cosines, those of the first frames are returned, in their order."""
        queries = np.ascontiguousarray(queries, np.float32)
        hits, gpus = NearestHits(len(queries), neighbours), list_gpus()
        if gpus:
            _search_by_gpus(gpus, hits, queries, neighbours, _join_blocks(self._blocks(), GPU_BLOCK_ROWS))
        else:
            _search_by_cores(hits, queries, _join_blocks(self._blocks(), BLOCK_ROWS))
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


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, by its number, and faiss's `memory` there; one search has it at a time, while it holds `turn`."""

    number: int
    memory: Any
    turn: Lock

    def nearest(self, queries: Floats, vectors: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest products and the rows of `vectors`, as `FrameSearch.nearest` does."""
        with self.turn:
            found: tuple[Floats, Numbers] = faiss.knn_gpu(
                self.memory, queries, vectors, neighbours, metric=faiss.METRIC_INNER_PRODUCT, device=self.number
            )
        return found


@lru_cache(maxsize=1)
def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that faiss can use. To allocate their memory takes longer than to search a block."""
    count: int = getattr(faiss, "get_num_gpus", int)()
    return tuple(Gpu(number, faiss.StandardGpuResources(), Lock()) for number in range(count))


def core_count() -> int:
    """Return how many threads a search may have: as many as faiss."""
    return int(faiss.omp_get_max_threads())


def _search_by_gpus(gpus: Sequence[Gpu], hits: NearestHits, queries: Floats, neighbours: int, blocks: Blocks) -> None:
    """Let each GPU search the next block, while what others found is joined."""
    searching: deque[tuple[int, Future[tuple[Floats, Numbers]]]] = deque()

    def join() -> None:
        first, found = searching.popleft()
        cosines, rows = found.result()
        hits.add(cosines, np.where(rows < 0, -1, rows + first))

    with ThreadPoolExecutor(len(gpus)) as pool:
        for (first, block), gpu in zip(blocks, cycle(gpus), strict=False):
            searching.append((first, pool.submit(gpu.nearest, queries, block, min(neighbours, len(block)))))
            if len(searching) > len(gpus):
                join()
        while searching:
            join()


def _search_by_cores(hits: NearestHits, queries: Floats, blocks: Blocks) -> None:
    """Let threads compare a tile of queries each with a block."""
    tiles = [slice(start, start + TILE_ROWS) for start in range(0, len(queries), TILE_ROWS)]
    threads = min(len(tiles), core_count())
    if threads <= 1:
        for first, block in blocks:
            for tile in tiles:
                hits.compare(queries, tile, block, first)
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for first, block in blocks:
            for done in [pool.submit(hits.compare, queries, tile, block, first) for tile in tiles]:
                done.result()


def _join_blocks(blocks: Iterable[Floats], rows: int) -> Iterator[tuple[int, Floats]]:
    """Join consecutive blocks until each has `rows` rows or more."""
    waiting: list[Floats] = []
    count = first = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= rows:
            yield first, np.concatenate(waiting) if len(waiting) > 1 else block
            first += count
            waiting, count = [], 0
    if count:
        yield first, np.concatenate(waiting)
