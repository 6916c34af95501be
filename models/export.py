"""The networks as ONNX files, checked against torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.onnx_files import answers, check_difference, traced, write_sealed

if TYPE_CHECKING:
    from torch import nn

    from models.overlay_network import OverlayNetwork

INPUT, PROPOSALS = "images", "proposals"
DESCRIPTOR_OUTPUT, OVERLAY_OUTPUTS = "descriptors", ("boxes", "confidence")

# Raise one when its exported graph changes, so that cached files of older versions are not used.
DESCRIPTOR_GRAPH_VERSION = 1
OVERLAY_GRAPH_VERSION = 1

# Largest differences between torch and ONNX Runtime, on the CPU.
DESCRIPTOR_TOLERANCE = 1e-4  # of any coordinate of a unit vector
OVERLAY_TOLERANCE = 1e-3  # of a side, as a share of the picture, or of a confidence


def export_descriptor(network: nn.Module, path: Path, input_size: int) -> Path:
    """Write a descriptor as ONNX, atomically, and return `path`: uint8 [N, S, S, 3] "images" to float32 [N, D].

    N is free, S is `input_size`. Raises `RuntimeError` when the network cannot be exported, and when ONNX Runtime's
    vectors differ from torch's by more than `DESCRIPTOR_TOLERANCE`.
    """
    import torch  # here, not above: reading a cached file must not cost the seconds that importing torch takes  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, input_size, input_size, 3), dtype=torch.uint8, generator=generator)
    graph, (expected,) = traced(network, {INPUT: images}, [DESCRIPTOR_OUTPUT])
    (found,) = answers(graph, {INPUT: images}, [DESCRIPTOR_OUTPUT])
    check_difference(float(np.abs(found - expected).max()), DESCRIPTOR_TOLERANCE)
    return write_sealed(path, graph)


def export_overlay(network: OverlayNetwork, path: Path) -> Path:
    """Write an overlay detector as ONNX, atomically, and return `path`: see `OverlayNetwork.forward`.

    N is free, and the proposals are 8 per picture. Raises `RuntimeError` when the network cannot be exported, and when
    ONNX Runtime's answers differ from torch's by more than `OVERLAY_TOLERANCE`.
    """
    import torch  # noqa: PLC0415

    from models.overlay_network import PROPOSED  # noqa: PLC0415

    side = network.config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8, generator=generator)
    for number, image in enumerate(images):  # plain panels on noise: something to find, and no near ties
        image[side // 4 : side // 2, side // 4 : side // 2 + number * 8] = 40 + 60 * number
    proposals = torch.zeros(3, PROPOSED, 4)
    proposals[:, 0] = torch.tensor([0.25, 0.25, 0.5, 0.5])
    inputs = {INPUT: images, PROPOSALS: proposals}
    graph, (boxes, confidence) = traced(network, inputs, OVERLAY_OUTPUTS)
    found_boxes, found_confidence = answers(graph, inputs, OVERLAY_OUTPUTS)
    surest = np.abs(found_boxes[:, 0] - boxes[:, 0]).max()  # the order of the others may hang on the last digit
    check_difference(float(max(surest, np.abs(found_confidence - confidence).max())), OVERLAY_TOLERANCE)
    return write_sealed(path, graph)
