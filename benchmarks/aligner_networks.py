"""Time per similarity matrix of the networks of alignment, of the published ones, and of the aligner without one.

The published ones get random weights, which take as long; their time to segments is not measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks.alignment import pairs
from benchmarks.results import Row, Section
from benchmarks.timing import fewest_seconds
from copytrace.alignment.aligners import SimilarityMatrix, build_aligner
from copytrace.alignment.networks import NetworkAligner, PairFilter
from copytrace.runtime import WEIGHTS
from models.aligner_network import build_aligner_network
from models.configs import HRNET_CANVAS, AlignerConfig, Backbone
from models.network_files import load_aligner_network, load_pair_classifier, save_aligner, save_pair_classifier
from models.pair_network import build_pair_classifier

SIZES, PAIRS = (64, 128), 4


@dataclass(frozen=True)
class Network:
    """A timed function, with its network's multiply-adds at 128x128 (picture classifiers: 160x160) and size."""

    name: str
    work: Callable[[SimilarityMatrix], object]
    billions: float | None = None
    megabytes: float | None = None


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure the networks that ship and the published ones, on the same matrices."""
    torch.set_num_threads(1)
    os.environ.setdefault("COPYTRACE_CACHE", str(work))
    weights = WEIGHTS / "aligner.safetensors"
    with threadpool_limits(1):
        networks = [
            Network("Hough voting, to segments", build_aligner("hough").align),
            Network("Copytrace's aligner, to segments", NetworkAligner(str(weights), backend="onnx").align),
            _aligner("Copytrace's aligner, heat map", weights),
            _aligner("HRNet-W18, heat map", write_random_aligner("hrnet_w18", work)),
            _filter("Copytrace's pair filter", WEIGHTS / "pair_classifier.safetensors"),
            _filter("MobileNetV3-small", write_random_filter("mobilenetv3_small_100", work)),
        ]
        sets = {size: [matrix for matrix, _ in pairs(size, PAIRS)] for size in SIZES}
        rows = []
        for each in networks:
            times = {f"ms, {size} x {size}": milliseconds(each.work, matrices) for size, matrices in sets.items()}
            rows.append(Row(each.name, {**times, "GMAC": each.billions, "MB": each.megabytes}))
    text = (
        "Milliseconds of one core for a similarity matrix; heat maps are means over a matrix and its transpose. The "
        f"input of HRNet is at least {HRNET_CANVAS} x {HRNET_CANVAS}. The published networks have random weights."
    )
    return [Section("Networks of alignment beside the published ones", text, rows)]


def _aligner(name: str, weights: Path) -> Network:
    aligner, network = NetworkAligner(str(weights), backend="onnx"), load_aligner_network(weights)
    cost = giga_multiply_adds(network, HRNET_CANVAS)
    return Network(name, lambda matrix: aligner.heat_map(matrix.values), cost, weights.stat().st_size / 1e6)


def _filter(name: str, weights: Path) -> Network:
    pair_filter, network = PairFilter(str(weights), backend="onnx"), load_pair_classifier(weights)
    cost = giga_multiply_adds(network, network.config.canvas or HRNET_CANVAS)
    return Network(name, lambda matrix: pair_filter.probability([matrix]), cost, weights.stat().st_size / 1e6)


def write_random_aligner(backbone: Backbone, folder: Path) -> Path:
    """Write an aligner with random weights and return its path."""
    network = build_aligner_network(AlignerConfig(backbone))
    set_batch_norm(network, 128)
    return save_aligner(network, folder / backbone / "aligner.safetensors")


def write_random_filter(architecture: str, folder: Path) -> Path:
    """Write a pair classifier with random weights and return its path."""
    network = build_pair_classifier(architecture)
    set_batch_norm(network, network.config.canvas or HRNET_CANVAS)
    return save_pair_classifier(network, folder / architecture / "pair_classifier.safetensors")


def set_batch_norm(network: nn.Module, side: int) -> None:
    """Set the statistics of BatchNorm to those of noise; without them, 60 layers of random weights overflow."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(2, 1, side, side) - 0.3)
    network.eval()


def giga_multiply_adds(network: nn.Module, side: int) -> float:
    """Return the multiply-adds of the convolutions for one input, in 1e9."""
    counts: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], answer: Tensor) -> None:
        counts.append(answer.numel() * layer.get_parameter("weight")[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, side, side))
    return sum(counts) / 1e9


def milliseconds(work: Callable[[SimilarityMatrix], object], matrices: Sequence[SimilarityMatrix]) -> float:
    """Return the mean milliseconds per matrix in the best of three rounds."""
    (seconds,) = fewest_seconds([lambda: [work(matrix) for matrix in matrices]])
    return 1000.0 * seconds / len(matrices)
