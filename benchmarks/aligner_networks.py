"""Time per similarity matrix of the aligner and filter networks, and of the training-free aligner, in one run.

Run `python -m benchmarks.aligner_networks`. Times are milliseconds on one core, in the best of the rounds. Networks
without a weights file get random weights, which take as long; the time to segments is measured for trained ones only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks.alignment import pairs
from copytrace.alignment.aligners import SimilarityMatrix, build_aligner
from copytrace.alignment.networks import NetworkAligner, PairFilter
from models.aligner_network import build_aligner_network
from models.configs import HRNET_CANVAS, AlignerConfig, Backbone
from models.network_files import load_aligner_network, load_pair_classifier, save_aligner, save_pair_classifier
from models.pair_network import build_pair_classifier

Matrices = list[SimilarityMatrix]
PEER = "hrnet_w18 heat map"  # heat maps are means over the matrix and its transpose


@dataclass(frozen=True)
class Row:
    """A timed function, with its network's multiply-adds at 128x128 (picture classifiers: 160x160) and size."""

    name: str
    work: Callable[[SimilarityMatrix], object]
    cost: str = ""
    megabytes: str = ""


def main() -> None:
    """Print one row per aligner and pair filter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="frames of query and reference")
    parser.add_argument("--pairs", type=int, default=4, help="pairs per size; half of them have no copy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--light", type=Path, help="weights of a light aligner")
    parser.add_argument("--hrnet", type=Path, help="weights of an aligner with hrnet_w18")
    parser.add_argument("--filter", type=Path, help="weights of a pair classifier; default: light, random")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, threadpool_limits(1):
        os.environ.setdefault("COPYTRACE_CACHE", folder)
        rows = [
            Row("hough segments", build_aligner("hough").align),
            *aligner_rows("light", options.light, Path(folder)),
            *aligner_rows("hrnet_w18", options.hrnet, Path(folder)),
            filter_row(options.filter or write_random_filter("light", Path(folder))),
            filter_row(write_random_filter("mobilenetv3_small_100", Path(folder))),
        ]
        sets = [[matrix for matrix, _ in pairs(size, options.pairs)] for size in options.sizes]
        times = {row.name: [milliseconds(row.work, matrices, options.rounds) for matrices in sets] for row in rows}
    table = Table("", *(f"{n}x{n}, ms" for n in options.sizes), *(f"x at {n}" for n in options.sizes), "GMAC", "MB")
    for row in rows:
        ratios = [f"{peer / own:.1f}" for peer, own in zip(times[PEER], times[row.name], strict=True)]
        table.add_row(row.name, *(f"{time:.2f}" for time in times[row.name]), *ratios, row.cost, row.megabytes)
    table.caption = f"x: speed relative to the {PEER}, whose input is at least {HRNET_CANVAS}x{HRNET_CANVAS}"
    Console().print(table)


def aligner_rows(backbone: Backbone, trained: Path | None, folder: Path) -> list[Row]:
    """Return the rows of a network: its heat map and, if `trained` is given, its segments."""
    weights = trained or write_random_aligner(backbone, folder)
    aligner, network = NetworkAligner(str(weights), backend="onnx"), load_aligner_network(weights)
    cost, size = f"{giga_multiply_adds(network, HRNET_CANVAS):.3f}", megabytes(weights)
    heat_map = Row(f"{backbone} heat map", lambda matrix: aligner.heat_map(matrix.values), cost, size)
    return [heat_map, Row(f"{backbone} segments", aligner.align, cost, size)] if trained else [heat_map]


def filter_row(weights: Path) -> Row:
    """Return the row of a pair classifier."""
    pair_filter, network = PairFilter(str(weights), backend="onnx"), load_pair_classifier(weights)
    cost = f"{giga_multiply_adds(network, network.config.canvas or HRNET_CANVAS):.3f}"
    name = f"{network.config.architecture} pair filter"
    return Row(name, lambda matrix: pair_filter.probability([matrix]), cost, megabytes(weights))


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


def megabytes(path: Path) -> str:
    """Return the size of a file in megabytes (1e6 bytes)."""
    return f"{path.stat().st_size / 1e6:.2f}"


def milliseconds(work: Callable[[SimilarityMatrix], object], matrices: Matrices, rounds: int) -> float:
    """Return the mean milliseconds per matrix in the best round."""
    best = float("inf")
    for _ in range(rounds):
        begin = process_time()
        for matrix in matrices:
            work(matrix)
        best = min(best, process_time() - begin)
    return 1000.0 * best / len(matrices)


if __name__ == "__main__":
    main()
