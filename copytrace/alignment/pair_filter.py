"""The trained filter of candidate pairs: how probably is anything copied in their similarity matrix?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from copytrace.alignment.matrix_networks import Run, load_unchanged, onnx_runner, torch_runner
from copytrace.alignment.pair_canvas import pair_canvases
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.runtime.devices import Backend, uses_onnx
from copytrace.runtime.model_sources import resolve_model
from models.export import PAIR_GRAPH_VERSION, export_pair_classifier
from models.network_files import digest_of_network
from models.pair_files import load_pair_classifier, read_pair_config, read_threshold
from models.pretrained import ModelFileError

Floats = NDArray[np.float32]


class PairFilter:
    """Tells pairs that share a segment from those that do not, by a network that `train_pair_classifier` wrote.

    `model` is "shipped", a path or a URI, see `resolve_model`. `backend` auto takes torch where there is CUDA, else
    ONNX Runtime, which needs a graph file, made once and cached; `device` is a torch device. Pairs come from several
    threads, so each call works on one core. Pairs under `threshold`, which the file tells, are not worth aligning.
    Raises `ConfigError` when there is no such model or device.
    """

    def __init__(self, model: str = "shipped", *, backend: Backend = "auto", device: str | None = None) -> None:
        path = resolve_model(model, "pair-classifier")
        try:
            self.digest, self.config = digest_of_network(path), read_pair_config(path)
            self.threshold = read_threshold(path)
            self._run: Run = (
                onnx_runner(
                    f"pair-classifier-{self.digest}-v{PAIR_GRAPH_VERSION}.onnx",
                    lambda cached: export_pair_classifier(
                        load_unchanged(path, self.digest, load_pair_classifier), cached
                    ),
                )
                if uses_onnx(backend, device)
                else torch_runner(load_unchanged(path, self.digest, load_pair_classifier), device)
            )
        except ModelFileError as error:
            raise ConfigError(f"no pair classifier at {path}: {error}; or set alignment.pair_filter to none") from error

    def probability(self, matrices: Sequence[SimilarityMatrix]) -> Floats:
        """Return how probably each pair shares a segment, float32 [N] of 0..1; empty matrices share none.

        It is the mean of what the network says of the matrix and of its transpose.
        """
        return np.array([self._probability(matrix.values) for matrix in matrices], np.float32)

    def _probability(self, values: Floats) -> float:
        return max((self._mean_of_both_ways(look) for look in pair_canvases(values, self.config)), default=0.0)

    def _mean_of_both_ways(self, values: Floats) -> float:
        logits = [self._run(np.ascontiguousarray(way)[None, None])[0] for way in (values, values.T)]
        return float(np.mean(expit(logits)))


def load_pair_filter(source: str = "shipped", *, backend: Backend = "auto", device: str | None = None) -> PairFilter:
    """Return the filter whose network `source` names; see `PairFilter`."""
    return PairFilter(source, backend=backend, device=device)
