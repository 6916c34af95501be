"""Vectors that stay on disk, as segments of an index hold them, and the search that compares with all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.search.vector_search import BLOCK_ROWS, ExactFrameSearch


class MappedVectors:
    """The vectors of segments, float16 [N, D] each, whose rows are numbered through all of them.

    `runs` int64 [M, 2], of each segment, are the rows that are searched: the first row of a run, and the one after its
    last. Other rows are passed over.
    """

    def __init__(self, vectors: Sequence[NDArray[np.float16]], runs: Sequence[Numbers]) -> None:
        self._vectors, self._runs = vectors, runs
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
        return found

    def _blocks(self) -> Iterator[Floats]:
        for vectors, runs in zip(self._vectors, self._runs, strict=True):
            for first, last in runs.tolist():
                for start in range(first, last, BLOCK_ROWS):
                    yield vectors[start : min(start + BLOCK_ROWS, last)].astype(np.float32)


def current_runs(current: NDArray[np.bool_], starts: Numbers) -> Numbers:
    """Return the runs of rows of media that are `current` bool [R], int64 [M, 2].

    The rows of medium n are those from `starts[n]` to `starts[n + 1]`, int64 [R + 1].
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], current.astype(np.int8), [0]])))
    runs = starts[edges].reshape(-1, 2)
    return np.asarray(runs[runs[:, 0] < runs[:, 1]])
