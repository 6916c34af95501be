"""The best pairs of a query vector and a reference vector over all queries together, as both challenges search them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers

QUERY_ROWS, REFERENCE_ROWS = 4096, 8192  # compared at a time: 128 MiB of scores

Measure = Literal["product", "distance"]
"""The inner product, or the negative squared Euclidean distance."""


@dataclass(frozen=True, slots=True)
class BestPairs:
    """P pairs, best first; equal scores in order of their rows: `scores` float32, `queries` and `references` int64."""

    scores: Floats
    queries: Numbers
    references: Numbers

    def __len__(self) -> int:
        return len(self.scores)


def find_best_pairs(queries: NDArray[Any], references: NDArray[Any], count: int, measure: Measure) -> BestPairs:
    """Return the `count` best pairs of all queries (q, d) and references (r, d), which may be memory maps.

    The scores are computed in float32. Memory holds about three times the result, and a block of scores. The number of
    pairs that one query gets is not limited.
    """
    best = BestPairs(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    waiting, held, least = [best], 0, np.float32(-np.inf)
    for first_query in range(0, len(queries), QUERY_ROWS):
        asked = np.asarray(queries[first_query : first_query + QUERY_ROWS], np.float32)
        for first_reference in range(0, len(references), REFERENCE_ROWS):
            known = np.asarray(references[first_reference : first_reference + REFERENCE_ROWS], np.float32)
            scores = _compare(asked, known, measure)
            if np.isneginf(least) and scores.size > count:  # without a bound, all pairs of the block would wait
                least = np.partition(scores, scores.size - count, axis=None)[scores.size - count]
            rows, columns = np.nonzero(scores >= least)
            waiting.append(BestPairs(scores[rows, columns], first_query + rows, first_reference + columns))
            held += len(rows)
            if held > 2 * count:
                best = _choose(waiting, count)
                waiting, held, least = [best], len(best), best.scores[-1]
    return _choose(waiting, count)


def _compare(queries: Floats, references: Floats, measure: Measure) -> Floats:
    scores: Floats = queries @ references.T
    if measure == "distance":
        scores = 2 * scores - np.square(queries).sum(axis=1)[:, None] - np.square(references).sum(axis=1)[None]
    return scores


def _choose(parts: Iterable[BestPairs], count: int) -> BestPairs:
    together = list(parts)
    scores = np.concatenate([part.scores for part in together])
    queries = np.concatenate([part.queries for part in together])
    references = np.concatenate([part.references for part in together])
    order = np.lexsort((references, queries, -scores))[:count]
    return BestPairs(scores[order], queries[order], references[order])
