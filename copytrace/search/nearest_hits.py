"""The nearest vectors that a search has found for each query so far, in little memory and in one order for all."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers

MOST_ROWS = 2**32 - 1  # vectors that can be searched
FEW = 64  # queries
_NOTHING = np.iinfo(np.int64).min  # the key of no hit, below all others


class NearestHits:
    """The K hits of the greatest cosines of each of Q queries; among equal cosines, those of the first rows.

    A hit is one number: above, its cosine, whose bits are turned so that they sort as whole numbers do; below, its row,
    counted downwards. Hits are so compared, chosen and sorted by one comparison, and no two are equal.
    """

    def __init__(self, queries: int, neighbours: int) -> None:
        self._keys = np.full((queries, neighbours), _NOTHING)  # the least of each query comes first
        self._own = threading.local()

    def compare(self, queries: Floats, tile: slice | Numbers, vectors: Floats, rows: int | Numbers) -> None:
        """Keep the hits of the queries in `tile` of float32 [Q, D] among `vectors` [N, D].

        `rows` int64 [N] are the numbers of the vectors, or the first one if they follow each other. Threads may compare
        tiles that have no query in common at the same time.
        """
        chosen = queries[tile]
        cosines, above = self._buffers(len(chosen), len(vectors))
        with np.errstate(all="ignore"):  # BLAS raises flags by numbers that it pads with
            if len(cosines) < FEW:  # then it takes half as long for the transposed product
                cosines = np.matmul(vectors, chosen.T, out=cosines.reshape(len(vectors), len(cosines))).T
            else:
                np.matmul(chosen, vectors.T, out=cosines)
        best = self._keys[tile]
        least, kept = _cosines(best[:, :1]), best.shape[1]
        if kept < len(vectors) and np.isneginf(least).all():  # without a bound, all would be looked at again
            descending = np.negative(cosines)  # NaN, which vectors without a direction have, sorts last
            descending.partition(kept - 1, axis=1)
            bound = np.nan_to_num(-descending[:, kept - 1, None], nan=-np.inf)
            least = np.nextafter(bound, np.float32(-np.inf))
        np.greater(cosines, least, out=above)
        query, row = np.divmod(np.flatnonzero(above), len(vectors))
        self._keep(best, query, _keys(cosines[query, row], row + rows if isinstance(rows, int) else rows[row]))
        if not isinstance(tile, slice):  # then `best` is a copy
            self._keys[tile] = best

    def add(self, cosines: Floats, rows: Numbers) -> None:
        """Keep the hits of all queries among `cosines` [Q, N] to `rows` [Q, N]; −1 stands for none."""
        query, column = np.nonzero(rows >= 0)
        self._keep(self._keys, query, _keys(cosines[query, column], rows[query, column]))

    def sorted(self) -> tuple[Floats, Numbers]:
        """Return the cosines float32 [Q, K], greatest first, and the rows int64 [Q, K]; −inf and −1 for none."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        return _cosines(keys), np.where(keys == _NOTHING, -1, MOST_ROWS - (keys & MOST_ROWS))

    def _buffers(self, queries: int, vectors: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Return room for a tile of this thread; new memory for each would take a tenth of the time of the products."""
        size, shape = queries * vectors, (queries, vectors)
        if not hasattr(self._own, "cosines") or self._own.cosines.size < size:
            self._own.cosines, self._own.above = np.empty(size, np.float32), np.empty(size, np.bool_)
        return self._own.cosines[:size].reshape(shape), self._own.above[:size].reshape(shape)

    @staticmethod
    def _keep(best: Numbers, query: Numbers, keys: Numbers) -> None:
        """Replace the least of `best` [Q, K] by the greater of `keys` [N], which belong to `query` [N], ascending."""
        counts = np.bincount(query, minlength=len(best))
        more, kept = counts.max(initial=0), best.shape[1]
        if not more:
            return
        together = np.full((len(best), kept + more), _NOTHING)
        together[:, :kept] = best
        together[query, kept + np.arange(len(query)) - (np.cumsum(counts) - counts)[query]] = keys
        together.partition(more, axis=1)
        best[:] = together[:, more:]


def _keys(cosines: Floats, rows: Numbers) -> Numbers:
    bits = cosines.view(np.int32)
    ordered = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return np.asarray(ordered.astype(np.int64) << 32 | (MOST_ROWS - rows))


def _cosines(keys: Numbers) -> Floats:
    ordered = (keys >> 32).astype(np.int32)
    cosines = (ordered ^ (ordered >> 31 & 0x7FFFFFFF)).view(np.float32)
    return np.where(keys == _NOTHING, np.float32(-np.inf), cosines)
