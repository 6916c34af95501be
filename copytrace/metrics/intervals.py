"""Intervals between the edges of segments on one axis of many pairs of videos, and the score steps that cover them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from copytrace.metrics.images import Bools, Float64s, Ints


@dataclass(frozen=True, eq=False)
class Intervals:
    """Intervals between neighboring edges of the segments of each pair; all arrays have shape (intervals,).

    `queries` int64: number of the query video. `seconds` float64: length. `predicted_at` int64: the first score step
    whose predictions cover the interval. `right_at` int64: the first step at which it also counts as right, see
    `copytrace.metrics.videos`. The number of steps means never. `in_truth` bool: whether a true segment covers it.
    """

    queries: Ints
    seconds: Float64s
    predicted_at: Ints
    right_at: Ints
    in_truth: Bools

    def select_queries(self, chosen: Bools) -> Intervals:
        """Return the intervals of some queries; `chosen` is bool, one value per query number."""
        rows = chosen[self.queries]
        return Intervals(
            self.queries[rows], self.seconds[rows], self.predicted_at[rows], self.right_at[rows], self.in_truth[rows]
        )

    def sums(self, steps: int) -> tuple[Float64s, Float64s, float]:
        """Return the right and the predicted seconds up to each step, float64 (steps,), and the sum of true seconds."""
        right = np.bincount(self.right_at, weights=self.seconds, minlength=steps + 1)[:steps]
        predicted = np.bincount(self.predicted_at, weights=self.seconds, minlength=steps + 1)[:steps]
        return np.cumsum(right), np.cumsum(predicted), float(self.seconds[self.in_truth].sum())


def cut_axis(
    pairs: Ints, times: Float64s, steps: Ints, true_count: int, never: int, *, queries_of_pairs: Ints
) -> Intervals:
    """Return the intervals between all edges of all segments on one axis, pair by pair.

    Rows are segments, the `true_count` true ones first: `pairs` int64 (n,) are numbers of pairs of videos, `times`
    float64 (n, 2) are starts and ends in seconds, `steps` int64 (n,) are the steps from which the segments count, or
    `never`. `queries_of_pairs` int64 gives the query of each pair.
    """
    edge_pairs, edge_times = np.tile(pairs, 2), times.T.ravel()
    order = np.lexsort((edge_times, edge_pairs))
    edge_pairs, edge_times = edge_pairs[order], edge_times[order]
    opens = np.ones(len(order), dtype=np.bool_)
    opens[1:] = (np.diff(edge_pairs) != 0) | (np.diff(edge_times) != 0)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.cumsum(opens) - 1
    starts, ends = np.split(places, 2)
    edge_pairs, edge_times = edge_pairs[opens], edge_times[opens]

    # Interval i lies between edges i and i + 1. One between the edges of two pairs is not covered, and is dropped.
    count = len(edge_times)
    seconds = np.diff(edge_times, append=edge_times[-1:])
    true, predicted = slice(None, true_count), slice(true_count, None)
    in_truth = _coverage(starts[true], ends[true], count)
    met_at = _earliest(starts[true], ends[true], steps[true], count, never)
    predicted_at = _earliest(starts[predicted], ends[predicted], steps[predicted], count, never)
    kept = in_truth | (predicted_at < never)
    return Intervals(
        queries=queries_of_pairs[edge_pairs[kept]],
        seconds=seconds[kept],
        predicted_at=predicted_at[kept],
        right_at=np.maximum(predicted_at, met_at)[kept],
        in_truth=in_truth[kept],
    )


def first_overlaps(
    truth_pairs: Ints, truth_times: Float64s, pairs: Ints, times: Float64s, steps: Ints, never: int
) -> Ints:
    """Return for each true box the first step of a predicted box of its pair that overlaps it, or `never`.

    Times are float64 (n, 4): query start, query end, reference start, reference end. The other arrays are int64 (n,).
    """
    by_pair = np.argsort(truth_pairs, kind="stable")
    boxes, met_at = truth_times[by_pair], np.full(len(truth_pairs), never, dtype=np.int64)
    counts = np.bincount(truth_pairs, minlength=int(pairs.max(initial=-1)) + 1)
    firsts = np.cumsum(counts) - counts
    rows, nth = np.flatnonzero(counts[pairs] > 0), 0
    # Each round compares every prediction with the nth true box of its pair, so memory does not grow with the boxes.
    while rows.size:
        box_rows = firsts[pairs[rows]] + nth
        starts = np.maximum(times[rows, ::2], boxes[box_rows, ::2])
        ends = np.minimum(times[rows, 1::2], boxes[box_rows, 1::2])
        overlap = (ends > starts).all(axis=1)
        np.minimum.at(met_at, box_rows[overlap], steps[rows[overlap]])
        nth += 1
        rows = rows[counts[pairs[rows]] > nth]
    in_given_order = np.empty_like(met_at)
    in_given_order[by_pair] = met_at
    return in_given_order


def _coverage(starts: Ints, ends: Ints, count: int) -> Bools:
    depth = np.bincount(starts, minlength=count) - np.bincount(ends, minlength=count)
    return np.cumsum(depth) > 0


def _earliest(starts: Ints, ends: Ints, steps: Ints, count: int, never: int) -> Ints:
    """Return the least step of the ranges [start, end) over each of `count` places, or `never`.

    This is a sparse table used backwards. A range of width w is the union of two ranges whose width is the greatest
    power of two up to w. At level k, `earliest[i]` holds for the 2**k places from i on; each level down passes it to
    both halves.
    """
    widths = ends - starts
    levels = np.frexp(widths)[1] - 1  # floor(log2(width)); -1 for an empty range, which covers no place
    earliest = np.full(count, never, dtype=np.int64)
    for level in range(int(levels.max(initial=-1)), -1, -1):
        span = 1 << level
        halved = earliest.copy()
        np.minimum(halved[span:], earliest[:-span], out=halved[span:])
        earliest = halved
        rows = np.flatnonzero(levels == level)
        np.minimum.at(earliest, starts[rows], steps[rows])
        np.minimum.at(earliest, ends[rows] - span, steps[rows])
    return earliest
