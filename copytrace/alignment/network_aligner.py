"""The trained aligner: a network turns similarities into a heat map of copied diagonals.

Segments are lines in the sum of heat map and similarities, which finds more than either alone: the heat map separates
copies from similar content, and the similarities show how certain each frame is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from copytrace.alignment.heat_maps_vsc22 import vsc22_segments
from copytrace.alignment.hough import HoughAligner
from copytrace.alignment.matrix_networks import Run, load_unchanged, onnx_runner, torch_runner
from copytrace.alignment.segments import Segment
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.runtime import Backend, resolve_model, uses_onnx
from models.configs import AlignerConfig, ModelFileError, digest_of_network, read_aligner_config
from models.export import ALIGNER_GRAPH_VERSION, export_aligner
from models.network_files import load_aligner_network

Floats = NDArray[np.float32]

TILE = 512  # cells per side of the network's largest input, which needs 200 MB of feature maps
HEAT_ZERO = 0.4  # heat that leaves the similarity unchanged
CONTEXT = 64  # cells around a tile that the network also gets, about its receptive field


@dataclass(frozen=True)
class JointRules(HoughAligner):
    """Rules for lines in the sum of similarity and heat; the score is fitted to the shipped aligner."""

    half_evidence: float = 3.8
    sharpness: float = 6.5


class NetworkAligner:
    """An aligner with a network that `train_aligner` wrote, and with `rules` for segments in its heat maps.

    `JointRules` search the sum of similarity and heat for lines; "vsc22" is the published rule (`vsc22_segments`).
    `model` is "shipped", a path or a URI; see `resolve_model`. Backend "auto" is torch if CUDA is available, else ONNX
    Runtime, for which a graph file is exported once and cached. `device` is a torch device. Several threads may call
    `align`; each call uses one core. Raises `ConfigError` if the model or the device is missing.
    """

    def __init__(
        self,
        model: str = "shipped",
        *,
        backend: Backend = "auto",
        device: str | None = None,
        rules: JointRules | Literal["vsc22"] | None = None,
    ) -> None:
        path = resolve_model(model, "aligner")
        self.rules: JointRules | Literal["vsc22"] = rules or JointRules()
        try:
            self.digest, self.config = digest_of_network(path), read_aligner_config(path)
            self._run: Run = (
                onnx_runner(
                    f"aligner-{self.digest}-v{ALIGNER_GRAPH_VERSION}.onnx",
                    lambda cached: export_aligner(load_unchanged(path, self.digest, load_aligner_network), cached),
                )
                if uses_onnx(backend, device)
                else torch_runner(load_unchanged(path, self.digest, load_aligner_network), device)
            )
        except ModelFileError as error:
            raise ConfigError(f"no aligner at {path}: {error}; or set alignment.aligner to hough") from error

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair of videos, best first; an empty matrix has none."""
        heat = self.heat_map(matrix.values)
        if self.rules == "vsc22":
            return vsc22_segments(heat, matrix)
        return self.rules.align(replace(matrix, values=matrix.values + heat - np.float32(HEAT_ZERO)))

    def heat_map(self, values: Floats) -> Floats:
        """Return the probability that each cell lies on a copied diagonal, float32 [Q, R], of similarities [Q, R].

        It is the mean of the network's answers for the matrix and for its transpose. Large matrices are processed in
        tiles, each with the cells around it.
        """
        heat = np.empty(values.shape, np.float32)
        for rows in tile_spans(values.shape[0]):
            for columns in tile_spans(values.shape[1]):
                tile = self._probabilities(values[rows.tile, columns.tile])
                heat[rows.core, columns.core] = tile[rows.core_in_tile, columns.core_in_tile]
        return heat

    def _probabilities(self, values: Floats) -> Floats:
        upright, turned = self._run_on_canvas(values), self._run_on_canvas(values.T).T
        return np.asarray((expit(upright) + expit(turned)) / 2, np.float32)

    def _run_on_canvas(self, values: Floats) -> Floats:
        canvas = pad_to_canvas(values, self.config)
        return self._run(canvas[None, None])[0, 0, : values.shape[0], : values.shape[1]]


@dataclass(frozen=True, slots=True)
class TileSpan:
    """A tile's cells along one axis, and its core: the cells whose results are kept."""

    tile: slice
    core: slice

    @property
    def core_in_tile(self) -> slice:
        """The core, counted from the start of the tile."""
        return slice(self.core.start - self.tile.start, self.core.stop - self.tile.start)


def tile_spans(length: int) -> Iterator[TileSpan]:
    """Yield the tiles of an axis, each of at most `TILE` cells, whose cores cover it; a short axis is one tile."""
    if length <= TILE:
        if length:
            yield TileSpan(slice(0, length), slice(0, length))
        return
    step = TILE - 2 * CONTEXT
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield TileSpan(slice(max(0, start - CONTEXT), min(stop + CONTEXT, length)), slice(start, stop))


def pad_to_canvas(values: Floats, config: AlignerConfig) -> Floats:
    """Return similarities float32 [Q, R] in the upper left corner of zeros of a size that the network accepts."""
    canvas = np.zeros([config.canvas_side(side) for side in values.shape], np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
