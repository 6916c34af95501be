"""A Swin of the class of imgFp's backbone with a thousandth of its weights, and tensors under the original names."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from models.swin import _CONFIG, _build

__all__ = ["TINY_SWIN", "checkpoint_filter_fn", "original_names", "tiny_swin"]

TINY_SWIN = "tiny_swin"
_SHAPE = {"embed_dim": 8, "depths": (1, 1, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 2}

default_cfgs = generate_default_cfgs({"tiny_swin.untrained": {**_CONFIG, "input_size": (3, 64, 64)}})


@register_model
def tiny_swin(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build it for pictures of 64 pixels; its last four blocks have 32, 32, 64 and 64 channels."""
    return _build(TINY_SWIN, pretrained, {"img_size": 64, **_SHAPE, **options})


def original_names(backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors as the original Swin stores them: each stage ends with the shrinking, and has computed buffers."""

    def earlier(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) - 1}.downsample"

    tensors = backbone.state_dict()
    tensors = {re.sub(r"layers\.(\d)\.downsample", earlier, name): value for name, value in tensors.items()}
    return tensors | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long)}
