"""Models that need no network, for tests that are about something else."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace import images, videos
from copytrace.alignment import exact_ends
from copytrace.features.resize import SquareInput
from copytrace.index import image_index, video_index

Pixels = NDArray[np.uint8]


class GridDescriptor(SquareInput):
    """A real descriptor that needs no network: the picture on a coarse grid, its mean taken away, as a unit vector."""

    name = "grid"
    digest = "grid0000grid0000"
    typical_noise = 0.47
    dimensions = 192
    input_size = 32

    def describe(self, batch: Pixels) -> NDArray[np.float32]:
        grid = batch.reshape(len(batch), 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(batch), -1)
        centred = grid - grid.mean(axis=1, keepdims=True)
        vectors = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        return cast(NDArray[np.float32], vectors.astype(np.float32))


def replace_models(patch: pytest.MonkeyPatch) -> None:
    """Let indexes be described by `GridDescriptor`, without an overlay detector."""
    models = (GridDescriptor(), None)
    for module in (images, image_index):
        patch.setattr(module, "load_image_models", lambda descriptor, detector: models)
    for module in (videos, video_index, exact_ends):
        patch.setattr(module, "load_video_models", lambda descriptor, detector: models)
