"""The global descriptor: a timm backbone, GeM pooling, an optional projection and whitening, and unit length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional

import models.swin  # noqa: F401 - registers an architecture with timm
from models.configs import GEM_POWER, DescriptorConfig, Pooling
from models.efficientnet_lite import load_backbone

LAST_BLOCKS = 4  # that the pooling of this name concatenates, as imgFp does

# Functions that load packaged weights into a backbone, by timm architecture.
PRETRAINED_BACKBONES: dict[str, Callable[[Path], nn.Module]] = {"tf_efficientnet_lite0": load_backbone}


class GeM(nn.Module):
    """Generalized-mean pooling of a feature map [N, C, H, W] into [N, C] (Radenović et al., 2018).

    It computes in float32, as cubes of large activations overflow float16. `epsilon` is the lowest activation.
    """

    def __init__(self, power: float = GEM_POWER, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.power, self.epsilon = power, epsilon

    def forward(self, features: Tensor) -> Tensor:
        """Pool float [N, C, H, W] into float32 [N, C]."""
        powers = features.float().clamp(min=self.epsilon).pow(self.power)
        return powers.mean(dim=(2, 3)).pow(1.0 / self.power)


class DescriptorNetwork(nn.Module):
    """Network from images to unit vectors; it includes the normalization, so that every runtime does the same.

    `backbone` is a timm model without pooling or head (see `timm_backbone`). `mean` and `std` are per RGB channel, for
    values in 0..1. `pooling` "gem" pools the feature map by GeM; "all_tokens" also pools the class token of a
    transformer; "last_blocks" concatenates the means of the tokens after each of the last four blocks of a Swin, of
    which those of the last stage are normalized (EsViT's linear evaluation, and imgFp). `expansion` is None until it is
    set; it maps each cell or token before GeM. `projection` maps the pooled [N, C] to [N, D]. `whitening` maps those
    vectors, of unit length, to [N, W], which are normalized again; for PCA whitening its bias is -weight @ mean. Raises
    `ValueError` for a pooling that the backbone does not allow.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        gem_power: float = GEM_POWER,
        pooling: Pooling = "gem",
        projection: nn.Linear | None = None,
        whitening: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        if pooling == "last_blocks" and not isinstance(backbone, SwinTransformer):
            raise ValueError("pooling last_blocks is for Swin transformers (version 1); give gem")
        self.backbone = backbone
        self.pooling = GeM(gem_power)
        self.pooled = pooling
        self.expansion: nn.Linear | None = None
        self.projection = projection
        self.whitening = whitening
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        last = self.whitening or self.projection
        return last.out_features if last else self.pooled_dimensions

    @property
    def pooled_dimensions(self) -> int:
        """Length of the pooled vectors, which the projection takes."""
        if self.pooled == "last_blocks":
            return sum(block.dim for block in _last_blocks(self.backbone))
        return self.expansion.out_features if self.expansion else int(self.backbone.num_features)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Describe uint8 [N, S, S, 3] RGB images as float32 [N, D] unit vectors."""
        # (x / 255 - mean) / std as one multiplication and one addition per value.
        scale, shift = 1.0 / (255.0 * self.std), self.mean / self.std
        return self.embed(images.permute(0, 3, 1, 2).float() * scale - shift)

    def embed(self, pixels: Tensor) -> Tensor:
        """Describe normalized float [N, 3, S, S] pixels as float32 [N, D] unit vectors; training calls this."""
        pooled = self._pool(pixels)
        projected = pooled if self.projection is None else self.projection(pooled)
        vectors = functional.normalize(projected.float(), dim=1)
        if self.whitening is None:
            return vectors
        return functional.normalize(self.whitening(vectors).float(), dim=1)

    def _pool(self, pixels: Tensor) -> Tensor:
        if self.pooled == "last_blocks":
            return pool_last_blocks(self.backbone, pixels)
        features = _feature_map(self.backbone, pixels, all_tokens=self.pooled == "all_tokens")
        if self.expansion is not None:
            features = self.expansion(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        pooled: Tensor = self.pooling(features)
        return pooled


def timm_backbone(architecture: str, input_size: int | None = None) -> nn.Module:
    """Return a timm model of that name, with random weights and without pooling or head.

    `input_size` is the side of the input in pixels, by default that of timm's configuration. It matters only to
    architectures whose weights depend on it (Swin, ViT). Raises timm's own errors for an impossible size.
    """
    backbone: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="")
    config = timm.get_pretrained_cfg(architecture)
    if input_size is None or config is None or not config.fixed_input_size:
        return backbone
    # Preferred to `img_size`: the shapes then do not depend on earlier sizes.
    if is_resizable(backbone):
        resize_input(backbone, input_size)
        return backbone
    return timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="", img_size=input_size)


def is_resizable(backbone: nn.Module) -> bool:
    """Say whether `backbone` is a timm model whose weights depend on its input size and can be resampled."""
    return hasattr(backbone, "set_input_size")


def resize_input(backbone: nn.Module, input_size: int) -> None:
    """Resample the position embeddings of a timm model of a fixed input size for `input_size` pixels.

    Models that accept any size are not changed. Raises `ValueError`, or timm's own errors, if it is impossible.
    """
    if is_resizable(backbone):
        backbone.set_input_size(img_size=(input_size, input_size))  # type: ignore[operator]
    elif (getattr(backbone, "pretrained_cfg", None) or {}).get("fixed_input_size"):
        raise ValueError("timm does not resize this architecture")


def build_descriptor(config: DescriptorConfig) -> DescriptorNetwork:
    """Return the network of `config` with its packaged weights, in eval mode on the CPU.

    Raises `ValueError` for an architecture without packaged weights, or when the weights do not fit.
    """
    load = PRETRAINED_BACKBONES.get(config.architecture)
    if load is None:
        known = ", ".join(sorted(PRETRAINED_BACKBONES))
        raise ValueError(f"no packaged weights for {config.architecture}; there are some for: {known}")
    network = DescriptorNetwork(load(config.weights), mean=config.mean, std=config.std, gem_power=config.gem_power)
    return network.eval()


def pool_last_blocks(backbone: Any, pixels: Tensor) -> Tensor:
    """Return the mean tokens of a Swin after each of its last `LAST_BLOCKS` blocks, concatenated: float [N, C].

    Those of the last stage pass the backbone's normalization before (EsViT, Li et al., 2021).
    """
    kept = {id(block) for block in _last_blocks(backbone)}
    features: Tensor = backbone.patch_embed(pixels)  # [N, H, W, C]
    pooled = []
    for stage in backbone.layers:
        features = stage.downsample(features)
        for block in stage.blocks:
            features = block(features)
            if id(block) in kept:
                tokens = backbone.norm(features) if stage is backbone.layers[-1] else features
                pooled.append(tokens.mean(dim=(1, 2)))
    return torch.cat(pooled, dim=1)


def _last_blocks(backbone: Any) -> list[Any]:
    return [block for stage in backbone.layers for block in stage.blocks][-LAST_BLOCKS:]


def _feature_map(backbone: nn.Module, pixels: Tensor, *, all_tokens: bool = False) -> Tensor:
    features: Tensor = backbone(pixels)
    if features.ndim == 3:  # a transformer's tokens [N, L, C], after its class and register tokens
        first = 0 if all_tokens else int(getattr(backbone, "num_prefix_tokens", 0))
        return features[:, first:].transpose(1, 2).unsqueeze(-1)
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    return features
