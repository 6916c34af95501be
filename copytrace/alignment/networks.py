"""The trained networks of alignment, which take similarity matrices: the aligner and the filter of pairs.

The aligner turns similarities into a heat map of copied diagonals. Segments are lines in the sum of heat map and
similarities, which finds more than either alone: the heat map separates copies from similar content, and the
similarities show how certain each frame is. The filter gives the probability that a matrix has a copied segment.
ONNX Runtime runs both on the CPU, torch on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from scipy.special import expit

from copytrace.alignment.greedy_aligners import HoughAligner
from copytrace.alignment.heat_maps_vsc22 import vsc22_segments
from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.arrays import Floats
from copytrace.errors import ConfigError
from copytrace.model_sources import resolve_model
from copytrace.runtime import Backend, cached_graph, open_session, torch_device, uses_onnx
from models.configs import (
    AlignerConfig,
    ModelFileError,
    PairConfig,
    digest_of_network,
    read_aligner_config,
    read_pair_config,
    read_threshold,
)
from models.export import (
    ALIGNER_GRAPH_VERSION,
    LOGITS,
    PAIR_GRAPH_VERSION,
    VALUES,
    export_aligner,
    export_pair_classifier,
)
from models.graph_templates import fill_template
from models.network_files import load_aligner_network, load_pair_classifier

if TYPE_CHECKING:
    from torch import nn

TILE = 512  # cells per side of the network's largest input, which needs 200 MB of feature maps
HEAT_ZERO = 0.4  # heat that leaves the similarity unchanged
CONTEXT = 64  # cells around a tile that the network also gets, about its receptive field

Run = Callable[[Floats], Floats]
N = TypeVar("N")


@dataclass(frozen=True)
class JointRules(HoughAligner):
    """Rules for lines in the sum of similarity and heat; the score is fitted to the shipped aligner."""

    half_evidence: float = 3.8
    sharpness: float = 6.5
    turn_cost: float = 0.35


class NetworkAligner:
    """An aligner with a network that `train_aligner` wrote, and with `rules` for segments in its heat maps.

    `JointRules` search the sum of similarity and heat for lines; "vsc22" is the published rule (`vsc22_segments`).
    `model` is "shipped", a path or a URI; see `resolve_model`. `folds` are further ones; the mean of all heat maps
    counts. Backend "auto" is torch if CUDA is available, else ONNX Runtime, for which a graph file is made once and
    cached. `device` is a torch device. Several threads may call `align`; each call uses one core. Raises `ConfigError`
    if a model or the device is missing.
    """

    def __init__(
        self,
        model: str = "shipped",
        *,
        folds: Sequence[str] = (),
        backend: Backend = "auto",
        device: str | None = None,
        rules: JointRules | Literal["vsc22"] | None = None,
    ) -> None:
        self.rules: JointRules | Literal["vsc22"] = rules or JointRules()
        self._networks = [_load_aligner(source, backend, device) for source in (model, *folds)]
        self.digest = "+".join(network.digest for network in self._networks)

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair of videos, best first; an empty matrix has none."""
        heat = self.heat_map(matrix.values)
        if self.rules == "vsc22":
            return vsc22_segments(heat, matrix)
        return self.rules.align(replace(matrix, values=matrix.values + heat - np.float32(HEAT_ZERO)), matrix)

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
        both = [network.probabilities(values) + network.probabilities(values.T).T for network in self._networks]
        return np.asarray(sum(both) / (2 * len(both)), np.float32)


@dataclass(frozen=True, slots=True)
class _Network:
    """A network that was loaded: its file's digest, its configuration, and the function that runs it."""

    digest: str
    config: AlignerConfig
    run: Run

    def probabilities(self, values: Floats) -> Floats:
        """Return what the network says of each cell of similarities float32 [Q, R], float32 [Q, R], 0..1."""
        logits = self.run(pad_to_canvas(values, self.config)[None, None])[0, 0, : values.shape[0], : values.shape[1]]
        return np.asarray(expit(logits), np.float32)


def _load_aligner(source: str, backend: Backend, device: str | None) -> _Network:
    path = resolve_model(source, "aligner")
    try:
        digest, config = digest_of_network(path), read_aligner_config(path)
        run = _load_run("aligner", path, digest, backend, device)
        return _Network(digest, config, run)
    except ModelFileError as error:
        raise ConfigError(f"no aligner at {path}: {error}; or set alignment.aligner to hough") from error


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


def load_unchanged(path: Path, digest: str, load: Callable[[Path], N]) -> N:
    """Return what `load` makes of a file, which must still have `digest`, the key of the cached graph.

    Raises `ConfigError` if the file was replaced since `digest` was computed.
    """
    network = load(path)
    if digest_of_network(path) != digest:
        raise ConfigError(f"{path} was replaced while it was read; run the same command again")
    return network


# Of each kind of network: the version of its graph, and the functions that load and export it.
_KINDS: dict[str, tuple[int, Callable[[Path], Any], Callable[[Any, Path], Path]]] = {
    "aligner": (ALIGNER_GRAPH_VERSION, load_aligner_network, export_aligner),
    "pair-classifier": (PAIR_GRAPH_VERSION, load_pair_classifier, export_pair_classifier),
}


def _load_run(kind: str, path: Path, digest: str, backend: Backend, device: str | None) -> Run:
    """Return the function that runs the network in `path`; see `onnx_runner` and `torch_runner`."""
    version, load, export = _KINDS[kind]
    if not uses_onnx(backend, device):
        return torch_runner(load_unchanged(path, digest, load), device)

    def make_graph(cached: Path) -> Path:
        filled = load_unchanged(path, digest, lambda file: fill_template(kind, file, cached))
        return filled or export(load_unchanged(path, digest, load), cached)

    return onnx_runner(f"{kind}-{digest}-v{version}.onnx", path, make_graph)


def onnx_runner(name: str, weights: Path, export: Callable[[Path], Path]) -> Run:
    """Return a function that turns float32 [N, 1, H, W] into logits by the graph in the cache, exported if missing.

    `name` is that of the graph's file in the cache, see `cached_graph`. Several threads may call the function at once;
    each call uses one core.
    """
    session = open_session(cached_graph(name, weights, export), threads=1, any_shape=True)

    def run(values: Floats) -> Floats:
        (logits,) = session.run([LOGITS], {VALUES: values})
        return np.asarray(logits, np.float32)

    return run


def torch_runner(network: nn.Module, device: str | None) -> Run:
    """Return a function that turns float32 [N, 1, H, W] into logits by torch, on the device of that name.

    Raises `ConfigError` as `torch_device` does.
    """
    import torch  # noqa: PLC0415

    target = torch_device(device)
    network = network.to(target).eval()

    def run(values: Floats) -> Floats:
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.ascontiguousarray(values)).to(target))
        return np.asarray(logits.cpu().numpy(), np.float32)

    return run


class PairFilter:
    """A classifier of pairs that share a segment, with a network that `train_pair_classifier` wrote.

    `model` is "shipped", a path or a URI; see `resolve_model`. `folds` are further ones; the mean of their answers
    counts. Backend "auto" is torch if CUDA is available, else ONNX Runtime, for which a graph file is made once and
    cached. `device` is a torch device. Several threads may call it; each call uses one core. Pairs below `threshold`,
    by default the lowest that the models' files state, need no alignment. Raises `ConfigError` if a model or the device
    is missing, and for models that take matrices of different sizes.
    """

    def __init__(
        self,
        model: str = "shipped",
        *,
        folds: Sequence[str] = (),
        threshold: float | None = None,
        backend: Backend = "auto",
        device: str | None = None,
    ) -> None:
        loaded = [_load_classifier(source, backend, device) for source in (model, *folds)]
        self.config = loaded[0].config
        if any(each.config != self.config for each in loaded):
            raise ConfigError("the classifiers of alignment.pair_filter_folds are of other kinds; give equal ones")
        self.digest = "+".join(each.digest for each in loaded)
        self.threshold = min(each.threshold for each in loaded) if threshold is None else threshold
        self._runs = [each.run for each in loaded]

    def probability(self, matrices: Sequence[SimilarityMatrix]) -> Floats:
        """Return the probability 0..1 that each pair shares a segment, float32 [N]; it is 0 for empty matrices.

        It is the mean of the networks' answers for the matrix and for its transpose; of published networks, the larger
        of the two.
        """
        return np.array([self._probability(matrix.values) for matrix in matrices], np.float32)

    def _probability(self, values: Floats) -> float:
        return max((self._symmetric_probability(canvas) for canvas in pair_canvases(values, self.config)), default=0.0)

    def _symmetric_probability(self, values: Floats) -> float:
        ways = [np.ascontiguousarray(way)[None, None] for way in (values, values.T)]
        answers = [np.mean(expit([run(way)[0] for run in self._runs])) for way in ways]
        return float(max(answers) if self.config.published else np.mean(answers))


@dataclass(frozen=True, slots=True)
class _Classifier:
    digest: str
    config: PairConfig
    threshold: float
    run: Run


def _load_classifier(source: str, backend: Backend, device: str | None) -> _Classifier:
    path = resolve_model(source, "pair-classifier")
    try:
        digest, config, threshold = digest_of_network(path), read_pair_config(path), read_threshold(path)
        run = _load_run("pair-classifier", path, digest, backend, device)
        return _Classifier(digest, config, threshold, run)
    except ModelFileError as error:
        raise ConfigError(f"no pair classifier at {path}: {error}; or set alignment.pair_filter to none") from error


def pair_canvases(values: Floats, config: PairConfig) -> Iterator[Floats]:
    """Yield the classifier's inputs for similarities float32 [Q, R]; the largest answer is that of the pair.

    A picture classifier gets one canvas. The light classifier gets the matrix itself, in overlapping tiles if a side
    has more than 512 frames. An empty matrix has no input.
    """
    if not values.size:
        return
    if config.canvas is not None:
        yield pair_canvas(values, config.canvas)
        return
    for rows in tile_spans(values.shape[0]):
        for columns in tile_spans(values.shape[1]):
            yield values[rows.tile, columns.tile]


def pair_canvas(values: Floats, side: int) -> Floats:
    """Return similarities float32 [Q, R] in the upper left corner of zeros, float32 [side, side].

    A longer axis is divided into `side` runs of frames as evenly as possible; each run is reduced to its maximum.
    """
    for axis in (0, 1):
        length = values.shape[axis]
        if length > side:
            values = np.maximum.reduceat(values, np.arange(side) * length // side, axis=axis)
    canvas = np.zeros((side, side), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
