"""What the networks that look at similarity matrices cost, beside the training-free aligner, in one run.

Run `python -m benchmarks.aligner_networks`. Milliseconds are of one core, and the best of the rounds counts. Networks
without a file of weights get random ones, which take as long; reading segments off heat maps is timed of trained ones.
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
from copytrace.alignment.network_aligner import NetworkAligner
from copytrace.alignment.pair_filter import PairFilter
from models.aligner_files import load_aligner_network, save_aligner
from models.aligner_network import build_aligner_network
from models.configs import HRNET_CANVAS, AlignerConfig, Backbone
from models.pair_files import load_pair_classifier, save_pair_classifier
from models.pair_network import build_pair_classifier

Matrices = list[SimilarityMatrix]
PEER = "hrnet_w18 heat map"  # heat maps are means of the matrix and its transpose


@dataclass(frozen=True)
class Row:
    """What is timed, and what its network costs once at 128x128 (a picture classifier: 160x160), and weighs."""

    name: str
    work: Callable[[SimilarityMatrix], object]
    cost: str = ""
    megabytes: str = ""


def main() -> None:
    """Print what a matrix costs by each aligner, and by the filter of pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="frames of query and reference")
    parser.add_argument("--pairs", type=int, default=4, help="pairs per size; half of them hold no copy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--light", type=Path, help="a trained light aligner")
    parser.add_argument("--hrnet", type=Path, help="a trained aligner on hrnet_w18")
    parser.add_argument("--filter", type=Path, help="a trained classifier of pairs, the light one by default")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, threadpool_limits(1):
        os.environ.setdefault("COPYTRACE_CACHE", folder)
        rows = [
            Row("hough segments", build_aligner("hough").align),
            *aligner_rows("light", options.light, Path(folder)),
            *aligner_rows("hrnet_w18", options.hrnet, Path(folder)),
            filter_row(options.filter or fresh_filter("light", Path(folder))),
            filter_row(fresh_filter("mobilenetv3_small_100", Path(folder))),
        ]
        made = [[matrix for matrix, _ in pairs(size, options.pairs)] for size in options.sizes]
        times = {row.name: [milliseconds(row.work, matrices, options.rounds) for matrices in made] for row in rows}
    table = Table("", *(f"{n}x{n}, ms" for n in options.sizes), *(f"x at {n}" for n in options.sizes), "GMAC", "MB")
    for row in rows:
        ratios = [f"{peer / own:.1f}" for peer, own in zip(times[PEER], times[row.name], strict=True)]
        table.add_row(row.name, *(f"{time:.2f}" for time in times[row.name]), *ratios, row.cost, row.megabytes)
    table.caption = f"x: times faster than the {PEER}, which is of {HRNET_CANVAS}x{HRNET_CANVAS} at the least"
    Console().print(table)


def aligner_rows(backbone: Backbone, trained: Path | None, folder: Path) -> list[Row]:
    """Return the rows of a network: its heat map alone, and all the way to segments if it was trained."""
    weights = trained or fresh_aligner(backbone, folder)
    aligner, network = NetworkAligner(str(weights), backend="onnx"), load_aligner_network(weights)
    cost, size = f"{giga_multiply_adds(network, HRNET_CANVAS):.3f}", megabytes(weights)
    heat_map = Row(f"{backbone} heat map", lambda matrix: aligner.heat_map(matrix.values), cost, size)
    return [heat_map, Row(f"{backbone} segments", aligner.align, cost, size)] if trained else [heat_map]


def filter_row(weights: Path) -> Row:
    """Return the row of a classifier of pairs."""
    pair_filter, network = PairFilter(str(weights), backend="onnx"), load_pair_classifier(weights)
    cost = f"{giga_multiply_adds(network, network.config.canvas or HRNET_CANVAS):.3f}"
    name = f"{network.config.architecture} pair filter"
    return Row(name, lambda matrix: pair_filter.probability([matrix]), cost, megabytes(weights))


def fresh_aligner(backbone: Backbone, folder: Path) -> Path:
    """Write an aligner with random weights and return its path."""
    network = build_aligner_network(AlignerConfig(backbone))
    settle(network, 128)
    return save_aligner(network, folder / backbone / "aligner.safetensors")


def fresh_filter(architecture: str, folder: Path) -> Path:
    """Write a classifier of pairs with random weights and return its path."""
    network = build_pair_classifier(architecture)
    settle(network, network.config.canvas or HRNET_CANVAS)
    return save_pair_classifier(network, folder / architecture / "pair_classifier.safetensors")


def settle(network: nn.Module, side: int) -> None:
    """Give BatchNorm the statistics of noise: without any, 60 layers of random weights overflow."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(2, 1, side, side) - 0.3)
    network.eval()


def giga_multiply_adds(network: nn.Module, side: int) -> float:
    """Return the multiply-adds of the convolutions for one canvas, in 1e9."""
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
    """Return the size of a file in 1e6 bytes."""
    return f"{path.stat().st_size / 1e6:.2f}"


def milliseconds(work: Callable[[SimilarityMatrix], object], matrices: Matrices, rounds: int) -> float:
    """Return the mean time of a matrix in the best round."""
    best = float("inf")
    for _ in range(rounds):
        begin = process_time()
        for matrix in matrices:
            work(matrix)
        best = min(best, process_time() - begin)
    return 1000.0 * best / len(matrices)


if __name__ == "__main__":
    main()
