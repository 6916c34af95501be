"""The best pairs over all queries: an exhaustive search, cut at a number of pairs, in blocks of any size."""

import numpy as np
import pytest

from copytrace.search import best_pairs
from copytrace.search.best_pairs import find_best_pairs

QUERIES = np.float32([[1, 0], [0, 2], [1, 1]])
REFERENCES = np.float32([[3, 0], [0, 1], [1, 0]])  # products: 3 0 1 | 0 2 0 | 3 1 1


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_the_greatest_products_of_all_queries_are_kept_and_ties_are_in_order_of_rows(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_pairs, "QUERY_ROWS", rows)
    monkeypatch.setattr(best_pairs, "REFERENCE_ROWS", rows)
    found = find_best_pairs(QUERIES, REFERENCES, 4, "product")
    assert found.scores.tolist() == [3, 3, 2, 1]
    assert list(zip(found.queries.tolist(), found.references.tolist(), strict=True)) == [(0, 0), (2, 0), (1, 1), (0, 2)]


def test_distances_are_squared_and_negative_and_there_may_be_fewer_pairs_than_asked_for() -> None:
    found = find_best_pairs(QUERIES[:1], REFERENCES, 10, "distance")
    assert (found.scores.tolist(), found.references.tolist()) == ([0, -2, -4], [2, 1, 0])
