"""Global descriptors: one vector per image, from either runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.errors import ConfigError, InputError
from copytrace.features.descriptor_runtimes import OnnxDescriptor, TorchDescriptor
from copytrace.runtime.devices import Backend, uses_onnx
from copytrace.runtime.model_sources import resolve_model
from models.descriptor_files import read_config
from models.pretrained import IMAGENET_MEAN, IMAGENET_STD, DescriptorConfig, ModelFileError, efficientnet_lite0

# Models that `load_descriptor` knows by name: their configuration for an input size.
MODELS: dict[str, Callable[[int], DescriptorConfig]] = {"imagenet": efficientnet_lite0}

IMAGENET_INPUT = 256
SSCD_INPUT = 288  # the side that SSCD's authors test at (Pizzi et al., 2022)
ZIP_MAGIC = b"PK\x03\x04"  # start of a TorchScript file, and of a pickled checkpoint, which is refused later

SMALLEST_INPUT = 32  # the backbone's stride: a smaller picture gives no feature map


class Descriptor(Protocol):
    """Model that turns pictures into unit vectors; only vectors of the same `digest` are comparable."""

    @property
    def name(self) -> str:
        """Name of the model for people; it does not identify the model."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; the same for every runtime of one model, input size and pooling."""

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""

    @property
    def input_size(self) -> int:
        """Side in pixels of the square pictures that `describe` takes."""

    @property
    def typical_noise(self) -> float | None:
        """Mean cosine of a picture to its nearest unrelated ones in a large collection; None if it was not measured."""

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe uint8 [N, S, S, 3] RGB pictures (see `resize_for_descriptor`) as float32 [N, D] unit vectors.

        N may be 0. Raises `InputError` for another shape or type.
        """


def load_descriptor(
    model: str = "shipped",
    *,
    backend: Backend = "auto",
    device: str | None = None,
    threads: int = 0,
    input_size: int | None = None,
) -> Descriptor:
    """Load a global descriptor: ONNX Runtime on the CPU, torch on CUDA and for TorchScript.

    `model` is a name in `MODELS`, or a source for `resolve_model`: "shipped", a file or folder, a URI. The file is one
    that `save_descriptor` wrote, or TorchScript as published for SSCD, which takes float [N, 3, S, S] normalized as for
    ImageNet and returns [N, D]. `device` is a torch device such as "cpu" or "cuda:1"; the default is CUDA if there is
    some. `threads` is the number of CPU cores, 0 for all. `input_size` is by default that of the model. ONNX Runtime
    needs a graph file, which is exported once (about 15 s) and kept in `cache_folder()`; torch is then no longer
    imported. Raises `ConfigError` for unknown or conflicting settings and for a model that is missing, damaged or not a
    descriptor. Raises `CopytraceError` if onnxruntime is not installed, the model cannot be exported, or the cache
    cannot be written.
    """
    if input_size is not None and input_size < SMALLEST_INPUT:
        raise ConfigError(f"input_size is {input_size}; give {SMALLEST_INPUT} or more pixels, 256 for instance")
    if threads < 0:
        raise ConfigError(f"threads is {threads}; give 0 for all cores, or a positive number")
    try:
        config = _descriptor_config(model, input_size)
        scripted = config.storage == "torchscript"
        if scripted and backend == "onnx":
            raise ConfigError(f"{config.weights} is TorchScript, which onnx does not run; set backend to auto or torch")
        if not scripted and uses_onnx(backend, device):
            return OnnxDescriptor(config, threads=threads)
        return TorchDescriptor(config, device=device, threads=threads)
    except ModelFileError as error:
        raise ConfigError(str(error)) from error


def resize_for_descriptor(pixels: NDArray[np.uint8], input_size: int) -> NDArray[np.uint8]:
    """Resize uint8 [H, W, 3] to uint8 [S, S, 3], regardless of its aspect: by area where sides shrink, else cubic.

    Raises `InputError` for another shape or type, or for an empty picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise InputError(
            f"a picture must be uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}; convert it to RGB"
        )
    height, width = pixels.shape[:2]
    # cv2's area mode samples points, and so aliases, as soon as either side grows: first shrink, then enlarge.
    resized = cv2.resize(pixels, (min(width, input_size), min(height, input_size)), interpolation=cv2.INTER_AREA)
    if min(height, width) < input_size:
        resized = cv2.resize(resized, (input_size, input_size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _descriptor_config(model: str, input_size: int | None) -> DescriptorConfig:
    if model in MODELS:
        return MODELS[model](input_size or IMAGENET_INPUT)
    path = resolve_model(model, "descriptor")
    with path.open("rb") as file:
        is_archive = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if not is_archive:
        return read_config(path, input_size)
    return DescriptorConfig(
        name=path.name.partition(".")[0],
        architecture="torchscript",
        weights=path,
        dimensions=None,
        input_size=input_size or SSCD_INPUT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        storage="torchscript",
    )


def model_label(descriptor: Descriptor) -> str:
    """Return a label of the model that a person recognizes and that no two models share."""
    return f"{descriptor.name} at {descriptor.input_size} px ({descriptor.digest})"
