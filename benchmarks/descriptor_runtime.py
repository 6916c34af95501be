"""Images per second of `describe`, and of a bare `InferenceSession.run` of the same graph on the same tensors.

Run `python -m benchmarks.descriptor_runtime`. Rounds alternate between the two; the best round of each counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from copytrace.features.descriptors import OnnxDescriptor, descriptor_graph
from copytrace.runtime import usable_cores
from models.configs import efficientnet_lite0
from models.export import DESCRIPTOR_OUTPUT, INPUT


def main() -> None:
    """Print one row per input size and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 256, 288], help="sides of the input in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32], help="images per call")
    parser.add_argument("--threads", type=int, default=0, help="cores for both; 0 for all")
    parser.add_argument("--images", type=int, default=64, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    threads = options.threads or usable_cores()
    table = Table("input", "batch", "describe, images/s", "session.run, images/s", "ratio")
    for size in options.sizes:
        config = efficientnet_lite0(size)
        descriptor = OnnxDescriptor(config, threads=threads)
        session = bare_session(descriptor_graph(config), threads)

        def run(images: np.ndarray, session: onnxruntime.InferenceSession = session) -> None:
            session.run([DESCRIPTOR_OUTPUT], {INPUT: images})

        for batch in options.batches:
            images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            calls = max(1, options.images // batch)
            ours, bare = fastest([descriptor.describe, run], images, calls, options.rounds)
            table.add_row(str(size), str(batch), f"{ours:.1f}", f"{bare:.1f}", f"{ours / bare:.2f}")
    Console().print(table, f"{threads} threads, onnxruntime {onnxruntime.__version__}, best of {options.rounds} rounds")


def bare_session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Open the graph as ONNX Runtime's examples do: all threads share each run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def fastest(
    functions: list[Callable[[np.ndarray], object]], images: np.ndarray, calls: int, rounds: int
) -> list[float]:
    """Return each function's best images per second over `rounds` rounds of `calls` calls, after one warm-up call."""
    best = [0.0] * len(functions)
    for function in functions:
        function(images)
    for _ in range(rounds):
        for index, function in enumerate(functions):
            start = perf_counter()
            for _ in range(calls):
                function(images)
            best[index] = max(best[index], calls * len(images) / (perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
