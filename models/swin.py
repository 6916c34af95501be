"""Swin-B with a window of 14, the backbone of imgFp's global descriptor, which timm lacks."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import nn

__all__ = ["checkpoint_filter_fn", "esvit_swin_base_patch4_window14_224", "swin_base_patch4_window14_224"]

_CONFIG = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "first_conv": "patch_embed.proj",
    "classifier": "head.fc",
    "fixed_input_size": True,
}

# timm looks for this name in the module of a registered function.
default_cfgs = generate_default_cfgs(
    {
        "swin_base_patch4_window14_224.untrained": _CONFIG,
        "esvit_swin_base_patch4_window14_224.untrained": _CONFIG,
    }
)


@register_model
def swin_base_patch4_window14_224(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """Build the shapes of imgFp's backbone (EsViT): patch 4, window 14, depths 2/2/18/2, heads 4/8/16/32."""
    return _build("swin_base_patch4_window14_224", pretrained, options)


@register_model
def esvit_swin_base_patch4_window14_224(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """Build imgFp's backbone itself: the same shapes, and LayerNorm with EsViT's epsilon of 1e-6 instead of 1e-5."""
    options = {"norm_layer": partial(nn.LayerNorm, eps=1e-6), **options}
    return _build("esvit_swin_base_patch4_window14_224", pretrained, options)


def _build(name: str, pretrained: bool, options: dict[str, Any]) -> SwinTransformer:
    shape = {"patch_size": 4, "window_size": 14, "embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
    network: SwinTransformer = build_model_with_cfg(
        SwinTransformer,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **{**shape, **options},
    )
    return network
