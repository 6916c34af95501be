"""Validation of aligners by the segments that they find in candidate pairs of held-out queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
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
from copytrace.training.matrix_edits import pad_to_canvas
from models.aligner_network import HIGHEST, LOWEST

TILE, SHOWN, ACROSS = 96, 24, 4  # pixels of a matrix in a sheet, rows of a sheet, and rows beside each other
WHITE = 255


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


def similarity_picture(values: Floats) -> Floats:
    """Return similarities as gray levels, 0 to 1, of the range that the networks use."""
    return ((values - LOWEST) / (HIGHEST - LOWEST)).clip(0, 1)


def matrix_sheet(rows: Sequence[tuple[Floats, ...]]) -> NDArray[np.uint8]:
    """Return rows of matrices, 0 to 1, side by side as a picture uint8 [H, W, 3], white elsewhere."""
    tiles = [np.concatenate([_tile(values) for values in row], axis=1) for row in rows]
    tiles += [np.full_like(tiles[0], WHITE)] * (-len(tiles) % ACROSS)
    lines = [np.concatenate(tiles[start : start + ACROSS], axis=1) for start in range(0, len(tiles), ACROSS)]
    return np.repeat(np.concatenate(lines)[..., None], 3, axis=2)


def _tile(values: Floats) -> NDArray[np.uint8]:
    scale = TILE / max(values.shape)
    size = [max(1, round(side * scale)) for side in values.shape]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    scaled = cv2.resize(values, (size[1], size[0]), interpolation=how).reshape(size)
    shades = pad_to_canvas(np.asarray(scaled - 1, np.float32), TILE + 4) + 1  # what is left of the tile is white
    return np.asarray(np.rint(shades.clip(0, 1) * WHITE), np.uint8)


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
