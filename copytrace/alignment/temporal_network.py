"""Temporal network: the longest path through the best frames of each row (Tan et al., ACM Multimedia 2009)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from copytrace.alignment.greedy_aligner import Direction, GreedyAligner, Path
from copytrace.alignment.lines import Array, Indices, fit_line

NOWHERE = -1
FEWEST_FRAMES = 3.0  # that a step may always cover: speed 2, and a frame unseen


@dataclass(frozen=True)
class TemporalNetworkAligner(GreedyAligner):
    """Joins each query frame's `top` most alike reference frames into paths, both clocks going forwards.

    A step covers at most `max_step` seconds (or three long frames) on both clocks; each second of the query that it
    leaps costs `max_penalty`, and each second by which its two clocks differ `step_cost`. The network has no cycles, so
    its longest path is found row by row. A segment's reference times are those of the line through its path, whose
    speed is drawn towards 1 as by points that span `prior_seconds`.
    """

    top: int = 10
    max_step: float = 8.0
    step_cost: float = 0.1
    prior_seconds: float = 0.5

    def find(self, direction: Direction) -> Path | None:
        """Return the path with the most evidence."""
        columns = _best_columns(direction.evidence, self.top)
        evidence = np.take_along_axis(direction.evidence, columns, axis=1)
        gains = evidence * direction.query_seconds[:, None]
        at = direction.reference_centres[columns]
        sums, origins = self._longest(gains, at, direction)
        if sums.max() <= 0:
            return None
        nodes = _trace(origins, int(np.argmax(sums)))
        rows, places = np.divmod(nodes, columns.shape[1])
        weights = gains[rows, places]
        line = fit_line(direction.query_centres[rows], at[rows, places], weights, self.prior_seconds)
        start, end = direction.query_times[rows[0], 0], direction.query_times[rows[-1], 1]
        return Path(float(start), float(end), *line, float(sums.max()), rows, columns[rows, places])

    def _longest(self, gains: Array, at: Array, direction: Direction) -> tuple[Array, Indices]:
        """Return the largest sum of a path that ends in each node [Q, top], 0 for none, and the node before, flat."""
        height, top = gains.shape
        sums, origins = np.zeros((height, top)), np.full((height, top), NOWHERE, dtype=np.intp)
        query, seconds = direction.query_centres, direction.query_seconds
        seen = np.concatenate([[0.0], np.cumsum(seconds)])
        reach = max(self.max_step, FEWEST_FRAMES * direction.step) * (1 + 1e-9)
        first = np.searchsorted(query, query - reach)
        for row in range(height):
            start, alive = int(first[row]), np.maximum(gains[row], 0.0)
            sums[row] = alive
            if start == row or not alive.any():
                continue
            leapt = seen[row] - seen[start + 1 : row + 1]
            elapsed = query[row] - query[start:row]
            steps = at[row][:, None, None] - at[start:row]
            before = sums[start:row]
            allowed = (steps > 0) & (steps <= reach) & (before > 0)
            price = self.max_penalty * leapt[:, None] + self.step_cost * np.abs(steps - elapsed[:, None])
            ways = np.where(allowed, before - price, 0.0).reshape(top, -1)
            best = ways.argmax(axis=1)
            most = ways[np.arange(top), best]
            reached = (most > 0) & (alive > 0)
            sums[row, reached] += most[reached]
            origins[row, reached] = start * top + best[reached]
        return sums, origins


def _best_columns(evidence: Array, top: int) -> Indices:
    """Return the `top` columns with the most evidence of every row [Q, top], or all of them."""
    width = evidence.shape[1]
    if top >= width:
        return np.broadcast_to(np.arange(width), evidence.shape)
    return np.argpartition(-evidence, top - 1, axis=1)[:, :top]


def _trace(origins: Indices, node: int) -> Indices:
    """Return the nodes of the path that ends in `node`, first to last, as flat indices."""
    flat = origins.ravel()
    nodes = [node]
    while flat[nodes[-1]] != NOWHERE:
        nodes.append(int(flat[nodes[-1]]))
    return np.array(nodes[::-1], dtype=np.intp)
