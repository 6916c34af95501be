"""Which points of two pictures are each other's match: ratio tests on uint8 root-SIFT descriptors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.features.points import MIRRORED_ORDER, Bytes, Points

IMGFP_RATIO = 1.8  # of squared distances: 1.8·d1² < d2²
_NO_SECOND = np.float32(2**31 - 1)

Matches = NDArray[np.int64]


def squared_distances(first: Bytes, second: Bytes) -> Floats:
    """Return the squared Euclidean distances float32 [N, M] between uint8 [N, 128] and uint8 [M, 128]; exact."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    distances = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)[None, :] - 2 * (a @ b.T)
    return np.asarray(np.maximum(distances, 0), np.float32)


def ratio_matches(query: Bytes, reference: Bytes, ratio: float) -> Matches:
    """Return matches int64 [K, 2] of query and reference points whose distance is below `ratio` of the second's.

    Each reference point is matched at most once, by its nearest query point (Lowe 2004 §7.1).
    """
    if len(query) == 0 or len(reference) == 0:
        return np.zeros((0, 2), np.int64)
    distances = squared_distances(query, reference)
    nearest, first, second = _two_smallest(distances)
    passed = np.flatnonzero(first < ratio**2 * second)
    order = passed[np.argsort(first[passed], kind="stable")]
    _, kept = np.unique(nearest[order], return_index=True)
    rows = order[np.sort(kept)]
    return np.stack([rows, nearest[rows]], axis=1)


def imgfp_score(query: Points, reference: Points) -> tuple[int, bool]:
    """Return imgFp's number of matches, and whether it is that of the mirrored reference.

    Each reference point's nearest query point passes when 1.8·d1² < d2². A match whose rounded position, on either
    side, is taken already is not counted; it replaces the one that took it when it is not farther (`match_score.cpp`).
    """
    plain = _imgfp_count(query, reference, reference.descriptor)
    mirrored = _imgfp_count(query, reference, reference.descriptor[:, MIRRORED_ORDER])
    return max(plain, mirrored), mirrored > plain


def _imgfp_count(query: Points, reference: Points, descriptors: Bytes) -> int:
    if len(query) == 0 or len(reference) == 0:
        return 0
    nearest, first, second = _two_smallest(squared_distances(descriptors, query.descriptor))
    passed = np.flatnonzero(first * IMGFP_RATIO < second)
    there = np.stack([np.rint(reference.x), np.rint(reference.y)], axis=1)[passed].astype(int).tolist()
    here = np.stack([np.rint(query.x), np.rint(query.y)], axis=1)[nearest[passed]].astype(int).tolist()
    distances = first[passed].tolist()
    accepted: list[tuple[list[int], list[int], float]] = []
    for match in zip(there, here, distances, strict=True):
        taken = next((n for n, old in enumerate(accepted) if old[0] == match[0] or old[1] == match[1]), None)
        if taken is None:
            accepted.append(match)
        elif match[2] <= accepted[taken][2]:
            accepted[taken] = match
    return len(accepted)


def _two_smallest(distances: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    rows = np.arange(len(distances))
    nearest = distances.argmin(axis=1)
    first = distances[rows, nearest]
    distances[rows, nearest] = _NO_SECOND
    return nearest, first, distances.min(axis=1)
