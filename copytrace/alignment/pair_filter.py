"""The trained filter of candidate pairs: the probability that their similarity matrix has a copied segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from copytrace.alignment.matrix_networks import Run, load_unchanged, onnx_runner, torch_runner
from copytrace.alignment.pair_canvas import pair_canvases
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.runtime import Backend, resolve_model, uses_onnx
from models.configs import ModelFileError, digest_of_network, read_pair_config, read_threshold
from models.export import PAIR_GRAPH_VERSION, export_pair_classifier
from models.network_files import load_pair_classifier

Floats = NDArray[np.float32]


class PairFilter:
    """A classifier of pairs that share a segment, with a network that `train_pair_classifier` wrote.

    `model` is "shipped", a path or a URI; see `resolve_model`. Backend "auto" is torch if CUDA is available, else ONNX
    Runtime, for which a graph file is exported once and cached. `device` is a torch device. Several threads may call
    it; each call uses one core. Pairs below `threshold`, which the model's file states, need no alignment. Raises
    `ConfigError` if the model or the device is missing.
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
        """Return the probability 0..1 that each pair shares a segment, float32 [N]; it is 0 for empty matrices.

        It is the mean of the network's answers for the matrix and for its transpose.
        """
        return np.array([self._probability(matrix.values) for matrix in matrices], np.float32)

    def _probability(self, values: Floats) -> float:
        return max((self._symmetric_probability(canvas) for canvas in pair_canvases(values, self.config)), default=0.0)

    def _symmetric_probability(self, values: Floats) -> float:
        logits = [self._run(np.ascontiguousarray(way)[None, None])[0] for way in (values, values.T)]
        return float(np.mean(expit(logits)))


def load_pair_filter(source: str = "shipped", *, backend: Backend = "auto", device: str | None = None) -> PairFilter:
    """Return the filter with the network that `source` names; see `PairFilter`."""
    return PairFilter(source, backend=backend, device=device)
