"""Validation of aligners by the segments that they find in candidate pairs of held-out queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from copytrace.alignment.heat_maps import HeatMapRules, heat_map_segments
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.metrics.videos import Segments, evaluate_segments, judge_segments
from copytrace.training.aligner_labels import label_map
from copytrace.training.aligner_module import AlignerNetwork
from copytrace.training.matrices import LabeledPair, true_segments
from copytrace.training.matrix_sheet import matrix_sheet, similarity_picture

SHOWN = 24  # rows of a sheet


@dataclass(frozen=True)
class AlignerValidation:
    """The pairs in which to find segments, by rules that are the same for all networks."""

    pairs: tuple[LabeledPair, ...]
    rules: HeatMapRules

    @classmethod
    def select(cls, pairs: Sequence[LabeledPair], most: int) -> AlignerValidation:
        """Select at most `most` of the pairs: all true ones, and the others with the highest search scores."""
        ranked = sorted(pairs, key=lambda pair: (not pair.is_true, -pair.score))
        copies = sum(pair.is_true for pair in pairs)
        return cls(tuple(ranked[: max(most, copies + 1)]), HeatMapRules())

    def metrics(self, network: AlignerNetwork) -> dict[str, float]:
        """Return segment AP, recall, and the AP of pairs, 0 to 1, and the cross-entropy of cells, in nats.

        True pairs that the search missed count as not found.
        """
        found: list[tuple[LabeledPair, Segment]] = []
        loss = cells = 0.0
        for pair, heat in zip(self.pairs, self.heats(network), strict=True):
            if np.isfinite(pair.score):
                found += [(pair, segment) for segment in heat_map_segments(heat, pair.matrix, self.rules)]
            loss += _cross_entropy(heat, _label(pair)) * heat.size
            cells += heat.size
        judged = judge_segments(_table(true_segments(self.pairs), "true"), _table(found, "found"))
        evaluation = evaluate_segments(judged)
        return {
            "segment_ap": evaluation.segment_ap,
            "recall": evaluation.recall,
            "pair_ap": evaluation.pair_ap,
            "validation_cells": loss / max(cells, 1.0),
        }

    def heats(self, network: AlignerNetwork) -> Iterator[Floats]:
        """Yield the heat map of each pair, float32 [Q, R]."""
        return (heat_map(network, pair.matrix.values) for pair in self.pairs)

    def sheet(self, network: AlignerNetwork) -> NDArray[np.uint8]:
        """Return a sheet, uint8 [H, W, 3], of the pairs with the worst heat maps: matrix, heat and label."""
        heats = zip(self.pairs, self.heats(network), strict=True)
        rows = [(pair.matrix.values, heat, _label(pair)) for pair, heat in heats]
        worst = sorted(rows, key=lambda row: -_cross_entropy(row[1], row[2]))[:SHOWN]
        return matrix_sheet([(similarity_picture(values), heat, label) for values, heat, label in worst])


def heat_map(network: AlignerNetwork, values: Floats) -> Floats:
    """Return the heat map float32 [Q, R] of similarities float32 [Q, R]: the mean over both orientations."""
    device = next(network.parameters()).device
    matrix = torch.from_numpy(np.ascontiguousarray(values))[None, None].to(device)
    with torch.inference_mode():
        heat = torch.sigmoid(network(matrix)) + torch.sigmoid(network(matrix.mT.contiguous())).mT
    return np.asarray((heat / 2)[0, 0].cpu().numpy(), np.float32)


def _label(pair: LabeledPair) -> Floats:
    return label_map(pair.segments, pair.matrix.query_times, pair.matrix.reference_times)


def _cross_entropy(heat: Floats, label: Floats) -> float:
    probabilities = torch.from_numpy(heat.clip(1e-6, 1 - 1e-6))
    return float(functional.binary_cross_entropy(probabilities, torch.from_numpy(label)))


def _table(rows: Sequence[tuple[LabeledPair, Segment]], source: str) -> Segments:
    """Segments of several runs as one table: a query that two runs share is two queries."""
    queries = np.array([f"{pair.run} {pair.query}" for pair, _ in rows], object)
    references = np.array([f"{pair.run} {pair.reference}" for pair, _ in rows], object)
    times = np.array([segment.box for _, segment in rows], np.float64).reshape(-1, 4)
    scores = np.array([segment.score for _, segment in rows], np.float64)
    return Segments(queries, references, times, scores, source=f"the {source} segments")
