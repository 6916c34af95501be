"""Validation of overlay detectors on composites of photos that were not used for training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from copytrace.features.resize import resize_for_descriptor
from copytrace.metrics.images import micro_average_precision
from copytrace.overlays.boxes import Box
from copytrace.overlays.detectors import EdgeOverlayDetector, pad_proposals, select_boxes
from copytrace.training.composites import Composites
from copytrace.training.photos import TrainingPhoto

Pictures = NDArray[np.uint8]
SEED = 7_919  # the validation set does not depend on the training's seed
BATCH = 16
MISTAKES_SHOWN = 24
USED_CONFIDENCE = 0.5  # confidence from which matching uses a box
IOUS = (0.5, 0.7)
_TRUE_COLOR, _FOUND_COLOR = (40, 220, 60), (255, 40, 200)


@dataclass(frozen=True)
class OverlayValidation:
    """Pictures uint8 [N, S, S, 3], their true boxes float32 [M, 4], the edge detector's boxes, and a digest.

    The digest is that of the pictures before they are reduced to S; only metrics of the same digest are comparable.
    """

    pictures: Pictures
    truths: list[NDArray[np.float32]]
    proposals: NDArray[np.float32]
    digest: str

    @classmethod
    def create(
        cls, photos: Sequence[TrainingPhoto], count: int, *, input_size: int, long_side: int, share: float
    ) -> OverlayValidation:
        """Make `count` composites of `photos`. Raises `InputError` when hardly any photo can be read."""
        source = Composites(photos, count, input_size, long_side, share, SEED)
        pictures, truths, proposals, content = [], [], [], hashlib.sha256()
        edges = EdgeOverlayDetector()
        for index in range(count):
            composite = source.composite(0, index)
            truths.append(composite.boxes().astype(np.float32))
            pictures.append(resize_for_descriptor(np.asarray(composite.image), input_size))
            proposals.append(pad_proposals(edges.detect(np.asarray(composite.image))))
            content.update(composite.image.tobytes() + truths[-1].tobytes())
        return cls(np.stack(pictures), truths, np.stack(proposals), content.hexdigest()[:16])

    def metrics(self, network: nn.Module) -> dict[str, float]:
        """Return `ap50`, and recall and precision at IoU 0.5 and 0.7 of the boxes that matching uses."""
        return detection_metrics(self.find(network), self.truths)

    def find(self, network: nn.Module) -> list[list[Box]]:
        """Find the boxes of each picture as matching does, on the network's device."""
        device = next(network.parameters()).device
        found: list[list[Box]] = []
        with torch.inference_mode():
            for start in range(0, len(self.pictures), BATCH):
                part = slice(start, start + BATCH)
                pictures, proposals = (torch.from_numpy(a[part]).to(device) for a in (self.pictures, self.proposals))
                boxes, confidence = network(pictures, proposals)
                found += map(select_boxes, boxes.cpu().numpy(), confidence.cpu().numpy())
        return found

    def mistakes(self, network: nn.Module) -> Pictures:
        """Return a sheet, uint8 [H, W, 3], of the worst mistakes: true boxes in green, used ones in pink."""
        found = self.find(network)
        sizes = [_mistake_size(boxes, truth) for boxes, truth in zip(found, self.truths, strict=True)]
        worst = np.argsort(-np.array(sizes), kind="stable")[:MISTAKES_SHOWN]
        used = [[box for box in found[index] if box.confidence >= USED_CONFIDENCE] for index in worst]
        return picture_sheet(self.pictures[worst], [self.truths[index] for index in worst], used)


def detection_metrics(found: Sequence[Sequence[Box]], truths: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Return average precision at IoU 0.5 over all boxes, and recall and precision of those that matching uses.

    `found` are the boxes of each picture, best first, and `truths` its true boxes, float32 [M, 4]. A true box counts
    once. Precision is 1 if no box is used.
    """
    total = sum(len(truth) for truth in truths)
    correct, confidence = match_boxes(found, truths, IOUS[0])
    metrics = {"ap50": micro_average_precision(correct, confidence, total)}
    for iou in IOUS:
        correct, confidence = match_boxes(found, truths, iou)
        right = int((correct & (confidence >= USED_CONFIDENCE)).sum())
        used = int((confidence >= USED_CONFIDENCE).sum())
        metrics[f"recall{round(iou * 100)}"] = right / max(total, 1)
        metrics[f"precision{round(iou * 100)}"] = right / used if used else 1.0
    return metrics


def match_boxes(
    found: Sequence[Sequence[Box]], truths: Sequence[NDArray[np.float32]], iou: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether each box, best first, matches a true box that no better box matched, and its confidence."""
    correct: list[bool] = []
    confidence: list[float] = []
    for boxes, truth in zip(found, truths, strict=True):
        left = [Box(float(x0), float(y0), float(x1), float(y1), 1.0) for x0, y0, x1, y1 in truth]
        for box in boxes:
            best = max(left, key=box.iou, default=None)
            hit = best is not None and box.iou(best) >= iou
            if hit and best is not None:
                left.remove(best)
            correct.append(hit)
            confidence.append(box.confidence)
    return np.array(correct, np.bool_), np.array(confidence, np.float64)


def precision_threshold(correct: NDArray[np.bool_], confidence: NDArray[np.float64], precision: float) -> float:
    """Return the lowest confidence from which the boxes together reach `precision`; 0.5 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= precision
    return float(confidence[order][np.flatnonzero(reached)[-1]]) if reached.any() else 0.5


def picture_sheet(
    pictures: Pictures, truths: Sequence[NDArray[np.float32]], found: Sequence[Sequence[Box]] = (), *, columns: int = 8
) -> Pictures:
    """Return pictures uint8 [N, S, S, 3] side by side, with true boxes in green and found ones in pink."""
    tiles = []
    for number, picture in enumerate(pictures):
        tile = np.ascontiguousarray(picture)
        for row in truths[number]:
            _draw(tile, row, _TRUE_COLOR)
        for box in found[number] if found else ():
            _draw(tile, np.array([box.x0, box.y0, box.x1, box.y1], np.float32), _FOUND_COLOR)
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows).astype(np.uint8)


def _draw(tile: Pictures, box: NDArray[np.float32], color: tuple[int, int, int]) -> None:
    height, width = tile.shape[:2]
    x0, y0, x1, y1 = np.rint(box * np.array([width, height, width, height])).astype(int).tolist()
    cv2.rectangle(tile, (x0, y0), (x1 - 1, y1 - 1), color, 1)


def _mistake_size(found: Sequence[Box], truth: NDArray[np.float32]) -> float:
    """Return the highest confidence of a wrong box, or the lack of confidence of a true one, 0..1."""
    correct, confidence = match_boxes([found], [truth], IOUS[0])
    wrong = float(confidence[~correct].max(initial=0.0))
    missed = 1 - float(confidence[correct].min(initial=1.0)) if correct.sum() == len(truth) else 1.0
    return max(wrong, missed)
