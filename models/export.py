"""Export of the networks as ONNX files, checked against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.atomic_file import write_atomically
from models.onnx_graphs import Trace, check_difference, trace_onnx

if TYPE_CHECKING:
    from torch import nn

    from models.aligner_network import HrnetAligner, LightAligner
    from models.overlay_network import OverlayNetwork
    from models.pair_network import PairNetwork

Outputs = Sequence[np.ndarray]
Check = Callable[[Outputs, Outputs], None]

INPUT, PROPOSALS, VALUES = "images", "proposals", "values"
DESCRIPTOR_OUTPUT, OVERLAY_OUTPUTS, LOGITS = "descriptors", ("boxes", "confidence"), "logits"

# Increase the version when the exported graph changes, so that older files in the cache are not used.
DESCRIPTOR_GRAPH_VERSION = 1
OVERLAY_GRAPH_VERSION = 2
ALIGNER_GRAPH_VERSION = 1
PAIR_GRAPH_VERSION = 2

# Largest differences between torch and ONNX Runtime on the CPU.
DESCRIPTOR_TOLERANCE = 1e-4  # of any coordinate of a unit vector
OVERLAY_TOLERANCE = 1e-3  # of a side, as a share of the picture, or of a confidence
PROBABILITY_TOLERANCE = 1e-4  # of the probability that a cell or a pair is copied
PUBLISHED_TOLERANCE = 1e-3  # of the published aligner, which is deep: 4e-4 was seen with random weights


def export_descriptor(network: nn.Module, path: Path, input_size: int) -> Path:
    """Write a descriptor as ONNX, atomically, and return `path`: uint8 [N, S, S, 3] "images" to float32 [N, D].

    N is free, S is `input_size`. Raises `RuntimeError` when the network cannot be exported, and when ONNX Runtime's
    vectors differ from torch's by more than `DESCRIPTOR_TOLERANCE`.
    """
    return _write(path, trace_descriptor(network, input_size), check_descriptor)


def export_overlay(network: OverlayNetwork, path: Path) -> Path:
    """Write an overlay detector as ONNX, atomically, and return `path`; see `OverlayNetwork.forward`.

    N is free, with 8 proposals per picture. Raises `RuntimeError` when the network cannot be exported, and when ONNX
    Runtime's outputs differ from torch's by more than `OVERLAY_TOLERANCE`.
    """
    return _write(path, trace_overlay(network), check_overlay)


def export_aligner(network: LightAligner | HrnetAligner, path: Path) -> Path:
    """Write an aligner's network as ONNX, atomically, and return `path`: "values" to "logits", float32 [N, 1, H, W].

    N, H and W are free, except that HRNet needs the sides of `AlignerConfig.canvas_side`. The whole canvas is the
    matrix. Raises `RuntimeError` when the network cannot be exported, and when ONNX Runtime's probabilities differ from
    torch's by more than `PROBABILITY_TOLERANCE`, or by `PUBLISHED_TOLERANCE` for published weights.
    """
    check = check_published_logits if network.config.published else check_logits
    return _write(path, trace_aligner(network), check)


def export_pair_classifier(network: PairNetwork, path: Path) -> Path:
    """Write a pair classifier as ONNX, atomically, and return `path`: "values" [N, 1, H, W] to "logits" [N].

    N is free. H and W are free for the light network, and those of the canvas for others. Raises `RuntimeError` when
    the network cannot be exported, and when ONNX Runtime's probabilities differ from torch's by more than
    `PROBABILITY_TOLERANCE`.
    """
    return _write(path, trace_pair_classifier(network), check_logits)


def _write(path: Path, trace: Trace, check: Check) -> Path:
    check(trace.run(), trace.expected)
    return write_atomically(path, trace.graph)


def trace_descriptor(network: nn.Module, input_size: int, *, keep_names: bool = False) -> Trace:
    """Trace a descriptor; see `trace_onnx` and `export_descriptor`."""
    import torch  # here: reading a cached graph must not cost the seconds that importing torch takes  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, input_size, input_size, 3), dtype=torch.uint8, generator=generator)
    return trace_onnx(network, {INPUT: images}, [DESCRIPTOR_OUTPUT], keep_names=keep_names)


def trace_overlay(network: OverlayNetwork, *, keep_names: bool = False) -> Trace:
    """Trace an overlay detector; see `trace_onnx` and `export_overlay`."""
    import torch  # noqa: PLC0415

    from models.overlay_network import PROPOSED  # noqa: PLC0415

    side = network.config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8, generator=generator)
    for number, image in enumerate(images):  # plain panels on noise give detections without near ties
        image[side // 4 : side // 2, side // 4 : side // 2 + number * 8] = 40 + 60 * number
    proposals = torch.zeros(3, PROPOSED, 4)
    proposals[:, 0] = torch.tensor([0.25, 0.25, 0.5, 0.5])
    return trace_onnx(network, {INPUT: images, PROPOSALS: proposals}, OVERLAY_OUTPUTS, keep_names=keep_names)


def trace_aligner(network: LightAligner | HrnetAligner, *, keep_names: bool = False) -> Trace:
    """Trace an aligner's network; see `trace_onnx` and `export_aligner`."""
    import torch  # noqa: PLC0415

    side = network.config.canvas_side
    values = torch.rand(2, 1, side(61), side(139), generator=torch.Generator().manual_seed(0)) - 0.2
    multiple = network.config.multiple
    return trace_onnx(network, {VALUES: values}, [LOGITS], side_multiple=multiple, keep_names=keep_names)


def trace_pair_classifier(network: PairNetwork, *, keep_names: bool = False) -> Trace:
    """Trace a pair classifier; see `trace_onnx` and `export_pair_classifier`."""
    import torch  # noqa: PLC0415

    canvas = network.config.canvas
    sides = (61, 139) if canvas is None else (canvas, canvas)
    values = torch.rand(3, 1, *sides, generator=torch.Generator().manual_seed(0)) - 0.2
    multiple = 1 if canvas is None else None
    return trace_onnx(network, {VALUES: values}, [LOGITS], side_multiple=multiple, keep_names=keep_names)


def check_descriptor(found: Outputs, expected: Outputs) -> None:
    """Raise `RuntimeError` if vectors differ by more than `DESCRIPTOR_TOLERANCE`."""
    check_difference(float(np.abs(found[0] - expected[0]).max()), DESCRIPTOR_TOLERANCE)


def check_overlay(found: Outputs, expected: Outputs) -> None:
    """Raise `RuntimeError` if the best box, or a confidence, differs by more than `OVERLAY_TOLERANCE`."""
    (found_boxes, found_confidence), (boxes, confidence) = found, expected
    best = np.abs(found_boxes[:, 0] - boxes[:, 0]).max()  # the order of the others may depend on the last digit
    check_difference(float(max(best, np.abs(found_confidence - confidence).max())), OVERLAY_TOLERANCE)


def check_logits(found: Outputs, expected: Outputs) -> None:
    """Raise `RuntimeError` if probabilities differ by more than `PROBABILITY_TOLERANCE`."""
    check_difference(_largest_difference(found[0], expected[0]), PROBABILITY_TOLERANCE)


def check_published_logits(found: Outputs, expected: Outputs) -> None:
    """Raise `RuntimeError` if probabilities differ by more than `PUBLISHED_TOLERANCE`."""
    check_difference(_largest_difference(found[0], expected[0]), PUBLISHED_TOLERANCE)


def _largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two arrays of logits, as probabilities; NaN if one of them holds NaN."""
    return float(np.abs(_probability(found) - _probability(expected)).max())


def _probability(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 + 0.5 * np.tanh(logits / 2))
