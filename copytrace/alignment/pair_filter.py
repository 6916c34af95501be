"""The trained filter of candidate pairs: how probably is anything copied in their similarity matrix?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from copytrace.alignment.matrix_networks import Run, run_by_onnx, run_by_torch
from copytrace.alignment.pair_canvas import pair_canvas
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.features.devices import Backend, runs_by_onnx
from copytrace.features.model_sources import locate
from models.export import PAIR_GRAPH_VERSION, export_pair_classifier
from models.network_files import digest_of_network
from models.pair_files import load_pair_classifier, read_pair_config, read_threshold
from models.pretrained import ModelFileError

Floats = NDArray[np.float32]

PAIRS_PER_RUN = 8  # each seen twice; larger runs measured no faster


class PairFilter:
    """Tells pairs that share a segment from those that do not, by a network that `train_pair_classifier` wrote.

    `model` is "shipped", a path or a URI, see `locate`. `backend` auto takes torch where there is CUDA, else ONNX
    Runtime, which needs a graph file, made once and cached; `device` is a torch device. Pairs come from several
    threads, so each call works on one core. Pairs under `threshold`, which the file tells, are not worth aligning.
    Raises `ConfigError` when there is no such model or device.
    """

    def __init__(self, model: str = "shipped", *, backend: Backend = "auto", device: str | None = None) -> None:
        path = locate(model, "pair-classifier")
        try:
            self.digest, self.config = digest_of_network(path), read_pair_config(path)
            self.threshold = read_threshold(path)
            self._run: Run = (
                run_by_onnx(
                    f"pair-classifier-{self.digest}-v{PAIR_GRAPH_VERSION}.onnx",
                    lambda cached: export_pair_classifier(load_pair_classifier(path), cached),
                )
                if runs_by_onnx(backend, device)
                else run_by_torch(load_pair_classifier(path), device)
            )
        except ModelFileError as error:
            raise ConfigError(f"no pair classifier at {path}: {error}") from error

    def probability(self, matrices: Sequence[SimilarityMatrix]) -> Floats:
        """Return how probably each pair shares a segment, float32 [N] of 0..1.

        It is the mean of what the network says of the matrix and of its transpose.
        """
        found = np.empty(len(matrices), np.float32)
        for start in range(0, len(matrices), PAIRS_PER_RUN):
            part = slice(start, start + PAIRS_PER_RUN)
            canvases = np.stack([pair_canvas(matrix.values) for matrix in matrices[part]])
            both = np.concatenate([canvases, canvases.transpose(0, 2, 1)])
            found[part] = expit(self._run(both[:, None])).reshape(2, -1).mean(axis=0)
        return found


def load_pair_filter(source: str = "shipped", *, backend: Backend = "auto", device: str | None = None) -> PairFilter:
    """Return the filter whose network `source` names; see `PairFilter`."""
    return PairFilter(source, backend=backend, device=device)
