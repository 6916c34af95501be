"""Several descriptors as one: their concatenated unit vectors, shortened by PCA if one was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from configs.videos import FrameDescriptorSettings
from copytrace.arrays import Floats
from copytrace.errors import ConfigError, InputError
from copytrace.features.descriptors import SquareDescriptor, load_descriptor
from copytrace.features.resize import resize_for_descriptor
from copytrace.storage import atomic_path, digest_of, digest_of_file, local_copy, resolve_path

ROWS_AT_ONCE = 8192  # vectors that are converted to float64 at a time


@dataclass(frozen=True, slots=True)
class Projection:
    """Principal components: `mean` float32 [D], `components` float32 [d, D], orthonormal rows, largest variance first.

    `digest` is that of the file that it was read from, or "" if it was just fitted.
    """

    mean: Floats
    components: Floats
    digest: str

    def apply(self, vectors: Floats) -> Floats:
        """Return float32 [N, d] unit vectors of float32 [N, D] ones; the mean itself, which has no direction, is 0."""
        shorter = (vectors - self.mean) @ self.components.T
        lengths = np.linalg.norm(shorter, axis=1, keepdims=True)
        return np.asarray(shorter / np.maximum(lengths, 1e-12), np.float32)


class Ensemble:
    """A `Descriptor` of several parts (VSC2022's first place: four models, 2048 numbers, PCA to 512).

    Each part gets a picture of its own size, resized by its own filter from the frame itself. Raises `ConfigError` for
    a projection of vectors of another length.
    """

    def __init__(self, parts: Sequence[SquareDescriptor], projection: Projection | None = None) -> None:
        length = sum(part.dimensions for part in parts)
        if projection and projection.mean.shape[0] != length:
            raise ConfigError(
                f"descriptor.pca is for vectors of {projection.mean.shape[0]} numbers, and these models give {length}; "
                "fit it with the same models"
            )
        self._parts, self._projection = parts, projection
        self._inputs = list(dict.fromkeys((part.input_size, part.interpolation) for part in parts))
        self.name = " + ".join(part.name for part in parts) + (" + pca" if projection else "")
        inputs = [(part.digest, part.input_size) for part in parts]
        # Ensembles of several sizes once enlarged or reduced a picture twice, so that their vectors were others.
        of_frames = () if len(self._inputs) == 1 else ("resized from the frame",)
        self.digest = digest_of(inputs, projection and projection.digest, *of_frames)
        self.dimensions = projection.components.shape[0] if projection else length
        self.input_size = max(part.input_size for part in parts)
        known = [part.typical_noise for part in parts if part.typical_noise is not None]
        # The cosine of concatenated unit vectors is the mean of the parts' cosines. The nearest unrelated pictures are
        # seldom the same for all parts, so this is an upper estimate. After PCA the noise is unknown.
        self.typical_noise = float(np.mean(known)) if len(known) == len(parts) and not projection else None

    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what `describe` takes of a picture, uint8 [H, W, 3]: the pictures of all parts, uint8 [L].

        They lie one behind another; parts of one size and filter share a picture. Raises as `Descriptor.resize` does.
        """
        return np.concatenate([resize_for_descriptor(pixels, *each).ravel() for each in self._inputs])

    def describe(self, batch: NDArray[np.uint8]) -> Floats:
        """Describe N pictures of `resize`, uint8 [N, L], as float32 [N, D] unit vectors.

        Raises as `Descriptor.describe` does.
        """
        ends = np.cumsum([side * side * 3 for side, _ in self._inputs])
        if batch.dtype != np.uint8 or batch.shape[1:] != (ends[-1],):
            raise InputError(
                f"a batch must be uint8 [N, {ends[-1]}], not {batch.dtype} {list(batch.shape)}; use the descriptor's "
                "resize"
            )
        pictures = {
            each: batch[:, end - each[0] ** 2 * 3 : end].reshape(-1, each[0], each[0], 3)
            for each, end in zip(self._inputs, ends, strict=True)
        }
        described = [part.describe(pictures[part.input_size, part.interpolation]) for part in self._parts]
        vectors = np.concatenate(described, axis=1)
        if self._projection:
            return self._projection.apply(vectors)
        return np.asarray(vectors / len(self._parts) ** 0.5, np.float32)


def load_ensemble(settings: FrameDescriptorSettings) -> Ensemble:
    """Load the models of `settings` as one descriptor. Raises as `load_descriptor` and `read_projection` do."""
    parts = [
        load_descriptor(
            model,
            backend=settings.backend,
            device=settings.device,
            input_size=settings.input_size,
            trust_torchscript=settings.trust_torchscript,
        )
        for model in (settings.model, *settings.also)
    ]
    return Ensemble(parts, read_projection(resolve_path(settings.pca)) if settings.pca else None)


def fit_projection(vectors: Floats, dimensions: int) -> Projection:
    """Fit principal components to float32 [N, D] vectors, N > `dimensions`, D ≥ `dimensions` ≥ 1.

    Raises `InputError` for fewer or shorter ones.
    """
    if not 1 <= dimensions <= min(len(vectors) - 1, vectors.shape[1]):
        raise InputError(
            f"{len(vectors):,} frames of {vectors.shape[1]} numbers cannot be shortened to {dimensions}; give more "
            "videos, or ask for fewer dimensions"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        centered = vectors[start : start + ROWS_AT_ONCE] - mean
        scatter += centered.T @ centered
    _, directions = np.linalg.eigh(scatter)
    components = directions[:, ::-1][:, :dimensions].T
    # The sign of a component is arbitrary; with its largest number made positive, the same vectors give the same file.
    signs = np.sign(components[np.arange(dimensions), np.abs(components).argmax(axis=1)])
    return Projection(mean.astype(np.float32), np.ascontiguousarray(components * signs[:, None], np.float32), "")


def write_projection(path: Path, projection: Projection) -> Path:
    """Write a projection as safetensors and return the path."""
    with atomic_path(path) as temporary:
        # safetensors writes the bytes as they lie in memory, so that columns would become rows.
        components = np.ascontiguousarray(projection.components)
        save_file({"mean": projection.mean, "components": components}, temporary)
    return path


def read_projection(path: Path) -> Projection:
    """Read a projection from the file that `write_projection` wrote. Raises `ConfigError` for any other file."""
    try:
        with local_copy(path) as file:
            tensors = load_file(file)
        mean, components = tensors["mean"], tensors["components"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(f"descriptor.pca={path} cannot be read; make it with: copytrace fit-pca") from error
    if mean.ndim != 1 or components.ndim != 2 or components.shape[1] != len(mean):
        raise ConfigError(f"descriptor.pca={path} holds no principal components; make it with: copytrace fit-pca")
    return Projection(mean.astype(np.float32), components.astype(np.float32), digest_of_file(path))
