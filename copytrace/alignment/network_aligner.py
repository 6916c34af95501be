"""The trained aligner: a network turns similarities into a heat map of copied diagonals; lines in both are segments.

The heat map tells copies from what only looks like one, the similarities tell how sure each frame is: lines are sought
in their sum, which finds more than either alone.
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
from copytrace.runtime.devices import Backend, uses_onnx
from copytrace.runtime.model_sources import resolve_model
from models.aligner_files import load_aligner_network, read_aligner_config
from models.configs import AlignerConfig
from models.export import ALIGNER_GRAPH_VERSION, export_aligner
from models.network_files import digest_of_network
from models.pretrained import ModelFileError

Floats = NDArray[np.float32]

TILE = 512  # cells along each side of what the network sees at once: 200 MB of feature maps
HEAT_ZERO = 0.4  # heat that neither adds to similarity nor takes from it
CONTEXT = 64  # cells around a tile that the network sees too, about as far as it looks


@dataclass(frozen=True)
class JointRules(HoughAligner):
    """How lines are read off similarity and heat together; the score is fitted to the aligner that ships."""

    half_evidence: float = 3.8
    sharpness: float = 6.5


class NetworkAligner:
    """Finds segments by a network that `train_aligner` wrote, and `rules` for what its heat maps say.

    `JointRules` read lines off the sum of similarity and heat, and "vsc22" is the published rule (`vsc22_segments`).
    `model` is "shipped", a path or a URI, see `resolve_model`. `backend` auto takes torch where there is CUDA, else
    ONNX Runtime, which needs a graph file, made once and cached; `device` is a torch device. Matrices come from several
    threads, so each is looked at on one core. Raises `ConfigError` when there is no such model or device.
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
        """Return the segments of a pair of videos, best first; none for an empty matrix."""
        heat = self.heat_map(matrix.values)
        if self.rules == "vsc22":
            return vsc22_segments(heat, matrix)
        return self.rules.align(replace(matrix, values=matrix.values + heat - np.float32(HEAT_ZERO)))

    def heat_map(self, values: Floats) -> Floats:
        """Return how probably each cell lies on a copied diagonal, float32 [Q, R], of similarities [Q, R].

        It is the mean of what the network says of the matrix and of its transpose. Large matrices are looked at in
        tiles, each with what is around it.
        """
        heat = np.empty(values.shape, np.float32)
        for rows in spans(values.shape[0]):
            for columns in spans(values.shape[1]):
                seen = self._probabilities(values[rows.seen, columns.seen])
                heat[rows.kept, columns.kept] = seen[rows.within, columns.within]
        return heat

    def _probabilities(self, values: Floats) -> Floats:
        upright, turned = self._run_on_canvas(values), self._run_on_canvas(values.T).T
        return np.asarray((expit(upright) + expit(turned)) / 2, np.float32)

    def _run_on_canvas(self, values: Floats) -> Floats:
        canvas = pad_to_canvas(values, self.config)
        return self._run(canvas[None, None])[0, 0, : values.shape[0], : values.shape[1]]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one axis: what the network sees of it, what is kept, and where that lies within what it sees."""

    seen: slice
    kept: slice

    @property
    def within(self) -> slice:
        """The kept part, counted from the start of the seen one."""
        return slice(self.kept.start - self.seen.start, self.kept.stop - self.seen.start)


def spans(length: int) -> Iterator[Span]:
    """Cut an axis into stretches of which the network sees at most `TILE` cells; a short one stays whole."""
    if length <= TILE:
        if length:
            yield Span(slice(0, length), slice(0, length))
        return
    step = TILE - 2 * CONTEXT
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield Span(slice(max(0, start - CONTEXT), min(stop + CONTEXT, length)), slice(start, stop))


def pad_to_canvas(values: Floats, config: AlignerConfig) -> Floats:
    """Put similarities float32 [Q, R] into the upper left corner of zeros, as large as the network needs it."""
    canvas = np.zeros([config.canvas_side(side) for side in values.shape], np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
