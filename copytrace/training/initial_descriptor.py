"""Start of the descriptor's training: from packaged weights, a file or random weights, with the PCA of the photos."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from configs.training import DescriptorTraining
from copytrace.arrays import Floats
from copytrace.errors import ConfigError, InputError, MediaError
from copytrace.features.descriptor_sources import descriptor_config
from copytrace.features.resize import resize_for_descriptor
from copytrace.training.descriptor_validation import describe
from copytrace.training.initial_weights import packaged_weights, resolve_start, training_device
from copytrace.training.photos import PhotoSplit, TrainingPhoto, load_photo
from models.configs import (
    HEADER_KEY,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHSCRIPT,
    DescriptorConfig,
    ModelFileError,
    read_descriptor_config,
)
from models.descriptor import DescriptorNetwork, build_descriptor, timm_backbone
from models.descriptor_spec import is_spec
from models.foreign_weights import load_foreign_descriptor
from models.misfits import first_of, misfits
from models.network_files import load_descriptor_file

PHOTOS_FOR_PCA = 4000

Tensors = Mapping[str, Tensor]

logger = logging.getLogger(__name__)


def check_architecture(settings: DescriptorTraining) -> None:
    """Raise `ConfigError` if timm lacks the architecture, or it takes one input size and the settings have two."""
    if not timm.is_model(settings.architecture):
        raise ConfigError(f"timm has no architecture {settings.architecture}; timm.list_models() has their names")
    config = timm.get_pretrained_cfg(settings.architecture)
    if config and config.fixed_input_size and settings.described_size != settings.input_size:
        raise ConfigError(
            f"{settings.architecture} takes one size only: set described_size={settings.input_size}, the input_size"
        )


def initial_network(settings: DescriptorTraining, split: PhotoSplit) -> DescriptorNetwork:
    """Return the network before its training; a new projection starts as the PCA of the training photos' features.

    `settings.start` is "imagenet", "random", a spec of published weights (`DescriptorSpec`), or a safetensors file: a
    descriptor to train further, or weights of the architecture as timm publishes them. Raises `ConfigError` when it
    does not fit the other settings, and `InputError` when none of the photos can be read.
    """
    network = _start_network(settings)
    if network.projection is not None:
        return network
    if network.dimensions < settings.dimensions:
        raise ConfigError(f"{settings.architecture} has {network.dimensions} features; set dimensions to that or less")
    device = training_device(settings.loop)
    network = network.eval().to(device)
    features = describe_photos(network, split.train, settings, settings.input_size)
    network.projection = fit_pca_layer(features, settings.dimensions, whiten=False).to(device)
    return network


def describe_photos(
    network: DescriptorNetwork, photos: Sequence[TrainingPhoto], settings: DescriptorTraining, size: int
) -> Floats:
    """Describe the photos, or some thousands of them, at `size` pixels as float32 [N, D]; skip unreadable ones.

    Raises `InputError` when none can be read.
    """
    step = max(1, len(photos) // PHOTOS_FOR_PCA)
    pictures = []
    for photo in photos[::step][:PHOTOS_FOR_PCA]:
        try:
            picture = np.asarray(load_photo(photo.path, settings.photos.long_side))
            pictures.append(resize_for_descriptor(picture, size, settings.interpolation))
        except MediaError as error:
            logger.warning("%s is skipped: %s", photo.path, error)
    if not pictures:
        raise InputError("none of the photos to learn from can be read; check their paths")
    return describe(network, np.stack(pictures))


def fit_pca_layer(features: Floats, dimensions: int, *, whiten: bool) -> nn.Linear:
    """Return the PCA of float32 [N, C] as a layer from C to `dimensions`; with `whiten` all outputs have variance 1."""
    values = torch.from_numpy(features).double()
    mean = values.mean(dim=0)
    covariance = (values - mean).T @ (values - mean) / len(values)
    variances, vectors = torch.linalg.eigh(covariance + 1e-6 * torch.eye(len(mean)))
    basis = vectors.flip(1)[:, :dimensions].T
    if whiten:
        # A small part of the mean variance limits the weight of directions in which the photos hardly vary.
        floor = variances.mean() * 0.05
        basis = basis / (variances.flip(0)[:dimensions, None] + floor).sqrt()
    layer = nn.Linear(features.shape[1], dimensions)
    with torch.no_grad():
        layer.weight.copy_(basis)
        layer.bias.copy_(-basis @ mean)
    return layer


def _start_network(settings: DescriptorTraining) -> DescriptorNetwork:
    if settings.start == "imagenet":
        network = build_descriptor(packaged_weights(settings.architecture, settings.input_size))
        if settings.pooling != "gem":
            raise ConfigError(f"pooling={settings.pooling} is for transformers; set architecture or pooling=gem")
        return network
    if settings.start == "random":
        return _with_pooling(_build_backbone(settings), settings, IMAGENET_MEAN, IMAGENET_STD)
    file = resolve_start(settings.start, "descriptor")
    if is_spec(file):
        return _load_by_spec(file, settings)
    if _is_descriptor(file):
        return _load_descriptor(file, settings)
    backbone = _build_backbone(settings)
    _load_published(backbone, file, settings.architecture)
    published: Mapping[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    return _with_pooling(backbone, settings, published["mean"], published["std"])


def _with_pooling(
    backbone: nn.Module, settings: DescriptorTraining, mean: Sequence[float], std: Sequence[float]
) -> DescriptorNetwork:
    try:
        return DescriptorNetwork(backbone, mean=mean, std=std, pooling=settings.pooling)
    except ValueError as error:
        raise ConfigError(f"{settings.architecture}: {error}") from error


def _build_backbone(settings: DescriptorTraining) -> nn.Module:
    size = settings.input_size
    torch.manual_seed(settings.loop.seed)
    try:
        backbone = timm_backbone(settings.architecture, size).eval()
        with torch.inference_mode():
            backbone(torch.zeros(1, 3, size, size))  # some raise only here
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{settings.architecture} cannot take input_size={size}: {reason}") from error
    return backbone


def _is_descriptor(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"start: {path} is not a whole safetensors file: {reason}; check the path") from error


def _load_by_spec(path: Path, settings: DescriptorTraining) -> DescriptorNetwork:
    try:
        config = descriptor_config(settings.start, settings.input_size)
        if config.architecture == TORCHSCRIPT:
            raise ConfigError(f"start: {path} names TorchScript, which cannot be trained; give its state dict")
        _check_start(path, config, settings)
        network = load_foreign_descriptor(config)
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    return network if network.projection is None else _check_projection(network, path, settings)


def _load_descriptor(path: Path, settings: DescriptorTraining) -> DescriptorNetwork:
    try:
        _check_start(path, read_descriptor_config(path), settings)
        network = load_descriptor_file(path, settings.input_size)
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    return _check_projection(network, path, settings)


def _check_start(path: Path, config: DescriptorConfig, settings: DescriptorTraining) -> None:
    """Raise `ConfigError` if the network of `config` is another one than the settings say."""
    if config.architecture != settings.architecture:
        raise ConfigError(f"start: {path} holds a {config.architecture}; set architecture to that")
    if config.pooling != settings.pooling:
        raise ConfigError(f"start: {path} has pooling {config.pooling}; set pooling={config.pooling}")
    if config.interpolation != settings.interpolation:
        raise ConfigError(
            f"start: {path} was trained on pictures resized by {config.interpolation}; "
            f"set interpolation={config.interpolation}"
        )


def _check_projection(network: DescriptorNetwork, path: Path, settings: DescriptorTraining) -> DescriptorNetwork:
    given = network.projection.out_features if network.projection else 0
    if given != settings.dimensions:
        raise ConfigError(f"start: {path} projects to {given} dimensions, not {settings.dimensions}; set dimensions")
    network.whitening = None
    return network


def _load_published(backbone: nn.Module, path: Path, architecture: str) -> None:
    """Load weights as published by timm, without their classifier."""
    expected = backbone.state_dict()
    tensors = _convert_checkpoint(load_file(path), backbone, path, architecture)
    classifiers = backbone.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = tuple(f"{name}." for name in ([classifiers] if isinstance(classifiers, str) else classifiers))
    found = {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(heads)}
    if wrong := misfits(expected, found):
        raise ConfigError(f"start: {path} does not fit {architecture}: it {first_of(wrong)}; give weights made for it")
    backbone.load_state_dict(found)


def _convert_checkpoint(tensors: Tensors, backbone: nn.Module, path: Path, architecture: str) -> Tensors:
    """Convert a checkpoint with other names or another input size, if timm has a function for it."""
    module = sys.modules[timm.model_entrypoint(architecture).__module__]
    convert: Callable[[Tensors, nn.Module], Tensors] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), backbone)
    except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"start: {path} does not fit {architecture}: {reason}; give weights made for it") from error
