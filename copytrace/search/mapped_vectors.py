"""Vectors that stay on disk, as segments of an index hold them, and the search that compares with all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.search.vector_search import BLOCK_ROWS, ExactFrameSearch

_WIDENED_AT_ONCE = 2048  # vectors
# Of a half, 1 bit is its sign, 5 its exponent plus 15, and 10 its fraction; of a float, 1, 8 (plus 127) and 23.
_SHIFT, _SIGN_AND_VALUE, _RAISE = np.int32(23 - 10), np.int32(-0x70002000), np.float32(2.0 ** (127 - 15))


class MappedVectors:
    """The vectors of segments, float16 [N, D] each, whose rows are numbered through all of them.

    `runs` int64 [M, 2], of each segment, are the rows that are searched: the first row of a run, and the one after its
    last. Other rows are passed over. With `dropped`, the vectors are without the number at that place.
    """

    def __init__(
        self, vectors: Sequence[NDArray[np.float16]], runs: Sequence[Numbers], dropped: int | None = None
    ) -> None:
        self._vectors, self._runs, self._dropped = vectors, runs, dropped
        self._first = np.cumsum([0, *map(len, vectors)])
        self._search = ExactFrameSearch(self._blocks)
        # The search numbers the rows of runs only: run n begins at `_searched[n]` there, and at `_row[n]` here.
        lengths = [np.zeros(0, np.int64), *(part[:, 1] - part[:, 0] for part in runs)]
        self._searched = np.concatenate([[0], np.cumsum(np.concatenate(lengths))[:-1]])
        rows = [part[:, 0] + first for part, first in zip(runs, self._first, strict=False)]
        self._row = np.concatenate([np.zeros(0, np.int64), *rows])

    def nearest(self, queries: Floats, neighbours: int) -> tuple[Floats, Numbers]:
        """Return the greatest cosines float32 [Q, K], greatest first, and rows int64 [Q, K]; −inf and −1 for none."""
        cosines, numbers = self._search.nearest(queries, neighbours)
        if not len(self._row):
            return cosines, numbers
        run = np.searchsorted(self._searched, numbers, side="right") - 1
        return cosines, np.where(numbers < 0, -1, self._row[run] + numbers - self._searched[run])

    def take(self, rows: Numbers) -> Floats:
        """Return the vectors of N rows, float32 [N, D]."""
        part = np.searchsorted(self._first, rows, side="right") - 1
        found = np.zeros((len(rows), self._vectors[0].shape[1]), np.float32)
        for number in np.unique(part):
            here = part == number
            found[here] = self._vectors[number][rows[here] - self._first[number]]
        return drop_number(found, self._dropped)

    def blocks_with_rows(self) -> Iterator[tuple[int, Floats]]:
        """Yield the vectors that are searched, float32 [B, D], each block with the number of its first row."""
        for first_row, vectors, runs in zip(self._first, self._vectors, self._runs, strict=False):
            for first, last in runs.tolist():
                for start in range(first, last, BLOCK_ROWS):
                    block = widen(vectors[start : min(start + BLOCK_ROWS, last)])
                    yield int(first_row) + start, drop_number(block, self._dropped)

    def _blocks(self) -> Iterator[Floats]:
        return (block for _, block in self.blocks_with_rows())


def widen(halves: NDArray[np.float16]) -> Floats:
    """Return finite numbers float16 [N, D] as float32, all of them exactly.

    The bits of a half are moved to where a float has them, and its exponent is raised, a part at a time that stays in
    the cache: that takes a fifth of the time in which NumPy converts halves, one by one.
    """
    wide = np.empty(halves.shape, np.float32)
    bits = wide.view(np.int32)
    for start in range(0, len(halves), _WIDENED_AT_ONCE):
        part = slice(start, start + _WIDENED_AT_ONCE)
        np.left_shift(halves[part].view(np.int16), _SHIFT, out=bits[part], dtype=np.int32)
        np.bitwise_and(bits[part], _SIGN_AND_VALUE, out=bits[part])
        np.multiply(wide[part], _RAISE, out=wide[part])
    return wide


def drop_number(vectors: Floats, dropped: int | None) -> Floats:
    """Return float32 [N, D] vectors with 0 at a place and unit length again; unchanged if the place is None."""
    if dropped is None:
        return vectors
    rest = vectors.copy()
    rest[:, dropped] = 0
    lengths = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.asarray(rest / np.maximum(lengths, 1e-12), np.float32)


def least_variance(vectors: MappedVectors) -> int | None:
    """Return the place of the number that varies least among the vectors; None if there are fewer than two."""
    count, total, squares = 0, np.zeros(0), np.zeros(0)
    for _, block in vectors.blocks_with_rows():
        count += len(block)
        total = block.sum(axis=0, dtype=np.float64) + (total if total.size else 0)
        squares = np.square(block, dtype=np.float64).sum(axis=0) + (squares if squares.size else 0)
    return int(np.argmin(squares / count - (total / count) ** 2)) if count > 1 else None


def current_runs(current: NDArray[np.bool_], starts: Numbers) -> Numbers:
    """Return the runs of rows of media that are `current` bool [R], int64 [M, 2].

    The rows of medium n are those from `starts[n]` to `starts[n + 1]`, int64 [R + 1].
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], current.astype(np.int8), [0]])))
    runs = starts[edges].reshape(-1, 2)
    return np.asarray(runs[runs[:, 0] < runs[:, 1]])
