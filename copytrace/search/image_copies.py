"""Copies among the references that are nearest to a query: pictures that the collection has several times.

They are no noise to each other, and none of them takes the place of another picture among the candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.search.descriptor_search import DescriptorSearch
from copytrace.search.vector_search import MAX_NEIGHBORS

COPY_LIKENESS = 0.9  # least cosine of two references that show the same picture
SAME_KEY = 1  # gray levels in which the keys of their thumbnails differ at most: pages of text may be as alike
WIDER = 8  # times as many references are looked for where copies leave no room for other pictures


class NearestImages(NamedTuple):
    """The K references nearest to each of Q query vectors, nearest first.

    `cosines` float32 [Q, K]; `rows` int64 [Q, K] are their numbers; −inf and −1 stand for none. `is_first` bool [Q, K]
    marks those that are no copies of a nearer one, and `is_nearest` bool [Q, K] the nearest one and its copies.
    """

    cosines: Floats
    rows: Numbers
    is_first: NDArray[np.bool_]
    is_nearest: NDArray[np.bool_]

    def other_cosines(self) -> Floats:
        """Return the cosines to other pictures than the nearest one, each once: float32 [Q, K], −inf for none."""
        others = np.where(self.is_first & ~self.is_nearest, self.cosines, np.float32(-np.inf))
        return np.asarray(-np.sort(-others, axis=1))


def find_nearest_images(search: DescriptorSearch, queries: Floats, neighbours: int, pictures: int) -> NearestImages:
    """Return the references nearest to `queries` float32 [Q, D], K = `neighbours` of each.

    Where there are copies, so that fewer than `pictures` of the K are different, K is larger for all.
    """
    nearest = NearestImages(*(found := search.nearest(queries, neighbours)), *_find_copies(search, found[1]))
    crowded = (nearest.rows[:, -1:] >= 0).all(axis=1) & (nearest.is_first.sum(axis=1) < pictures)
    wider = min(WIDER * neighbours, MAX_NEIGHBORS)
    if not crowded.any() or wider <= neighbours:
        return nearest
    shape = len(queries), wider
    cosines, rows = np.full(shape, -np.inf, np.float32), np.full(shape, -1)
    is_first, is_nearest = np.zeros(shape, bool), np.zeros(shape, bool)
    for whole, part in zip((cosines, rows, is_first, is_nearest), nearest, strict=True):
        whole[:, :neighbours] = part
    cosines[crowded], rows[crowded] = search.nearest(queries[crowded], wider)
    is_first[crowded], is_nearest[crowded] = _find_copies(search, rows[crowded])
    return NearestImages(cosines, rows, is_first, is_nearest)


def _find_copies(search: DescriptorSearch, rows: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return `is_first` and `is_nearest` of `NearestImages`."""
    is_first, is_nearest = rows >= 0, np.zeros(rows.shape, bool)
    needed = np.unique(rows[rows >= 0])
    if not len(needed):
        return is_first, is_nearest
    vectors, keys = search.vectors(needed), search.thumbnail_keys(needed)
    for query, numbers in enumerate(rows):
        place = np.searchsorted(needed, numbers[numbers >= 0])
        alike = vectors[place] @ vectors[place].T >= COPY_LIKENESS
        is_nearest[query, : len(place)] = alike[:, :1].any(axis=1)
        is_nearest[query, :1] = is_first[query, :1]  # also a reference without a direction
        later, earlier = np.nonzero(np.tril(alike, -1))
        apart = np.abs(keys[place[later]] - keys[place[earlier]]).max(axis=1, initial=0)
        is_first[query, later[apart <= SAME_KEY]] = False
    return is_first, is_nearest
