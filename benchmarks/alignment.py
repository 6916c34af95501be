"""Speed and accuracy of the aligners on synthetic matrices, beside VCSL's Temporal Network on networkx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

import networkx
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.results import Figure, Row, Section
from copytrace.alignment.aligners import TRAINING_FREE, SimilarityMatrix, build_aligner
from copytrace.alignment.segments import Segment

Box = tuple[float, float, float, float]
NOISE = 0.39  # cosine of unrelated frames by the shipped descriptor, which is 0 in the matrices
PEER = "VCSL's Temporal Network, networkx"
SIZES, PAIRS, ROUNDS = (60, 300), 6, 2


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure all aligners on the same matrices."""
    aligners: dict[str, Callable[[SimilarityMatrix], list[Segment]]] = {
        "Copytrace, by its network": build_aligner("network").align
    }
    aligners |= {f"Copytrace, by {name.replace('_', ' ')}": build_aligner(name).align for name in TRAINING_FREE} | {
        PEER: peer_align
    }
    rows = []
    with threadpool_limits(1):
        for name, align in aligners.items():
            speed: dict[str, Figure] = {
                f"ms, {size} x {size}": milliseconds(align, pairs(size, PAIRS), ROUNDS) for size in SIZES
            }
            rows.append(Row(name, speed | accuracy(align)))
    text = (
        "Milliseconds of one core for a pair of videos, by their frames. *Overlap*: of the true segment with the best "
        "one found. *Error*: signed, in seconds. The matrices are synthetic, and suit aligners without training better "
        "than real ones do, for which the network was trained."
    )
    return [Section("Alignment beside its peer", text, rows)]


def pairs(size: int, count: int) -> list[tuple[SimilarityMatrix, Box | None]]:
    """Return matrices of still and moving shots; every other one has a copied segment and comes with its box."""
    rng = np.random.default_rng(size)
    return [build_pair(rng, size, copied=index % 2 == 0) for index in range(count)]


def build_pair(rng: np.random.Generator, size: int, *, copied: bool) -> tuple[SimilarityMatrix, Box | None]:
    """Return a matrix of shots of 2 to 6 s that resemble themselves, and the box of its copy, if any."""
    shots = [np.repeat(np.arange(size), rng.integers(2, 7, size))[:size] for _ in range(2)]
    values = rng.normal(-0.5, 0.17, (size, size))[shots[0]][:, shots[1]] + rng.normal(0.0, 0.05, (size, size))
    box = None
    if copied:
        length, speed = rng.uniform(4.0, 0.4 * size), np.exp(rng.uniform(-np.log(2), np.log(2)))
        start, reference_start = rng.uniform(0, size - length), rng.uniform(0, size - length * speed)
        box = start, start + length, reference_start, reference_start + length * speed
        middles = np.arange(size) + 0.5
        shown = reference_start + speed * (middles - start)
        away = np.abs(shown[:, None] - middles)
        same_shot = shots[1][np.clip(shown, 0, size - 1).astype(int)][:, None] == shots[1]
        alike = np.maximum(0.6 - 0.3 * away, np.where(same_shot & (shots[1] % 2 == 0), 0.5, -1.0))
        inside = (middles >= start) & (middles < start + length)
        values[inside] = np.maximum(values, alike)[inside]
    times = np.stack([np.arange(size), np.arange(1, size + 1)], axis=1).astype(np.float64)
    return SimilarityMatrix(values.astype(np.float32), times, times), box


def milliseconds(
    align: Callable[[SimilarityMatrix], list[Segment]], made: list[tuple[SimilarityMatrix, Box | None]], rounds: int
) -> float:
    """Return the mean milliseconds per pair in the best round."""
    best = np.inf
    for _ in range(rounds):
        begin = process_time()
        for matrix, _ in made:
            align(matrix)
        best = min(best, process_time() - begin)
    return 1000.0 * best / len(made)


def accuracy(align: Callable[[SimilarityMatrix], list[Segment]], count: int = 60) -> dict[str, Figure]:
    """Return the mean overlap with the true box, and the mean errors of starts and ends of the segments found."""
    overlaps, errors = [], []
    for matrix, box in pairs(60, 2 * count):
        if box is None:
            continue
        found = align(matrix)
        overlaps.append(max((overlap(segment, box) for segment in found), default=0.0))
        if overlaps[-1] > 0:
            best = max(found, key=lambda segment, true=box: overlap(segment, true))
            errors.append(np.array(best.box) - np.array(box))
    mean = np.mean(errors, axis=0)
    return {
        "overlap": float(np.mean(overlaps)),
        "error of starts": float(mean[0::2].mean()),
        "error of ends": float(mean[1::2].mean()),
    }


def overlap(segment: Segment, box: Box) -> float:
    """Return the intersection over union of two boxes."""
    sides = [max(0.0, min(segment.box[at + 1], box[at + 1]) - max(segment.box[at], box[at])) for at in (0, 2)]
    areas = [(b[1] - b[0]) * (b[3] - b[2]) for b in (segment.box, box)]
    shared = sides[0] * sides[1]
    return shared / (sum(areas) - shared)


def peer_align(
    matrix: SimilarityMatrix, top: int = 5, least: float = 0.2, max_step: int = 10, shortest: int = 5, paths: int = 10
) -> list[Segment]:
    """Return the segments of a Temporal Network with VCSL's settings on plain cosines.

    It repeatedly takes the longest path and sets the weights of its edges to 0.
    """
    values = NOISE + (1.0 - NOISE) * matrix.values
    graph = peer_graph(values, np.argsort(-values, axis=1)[:, :top], least, max_step)
    found: list[Segment] = []
    for _ in range(paths):
        path = [node for node in networkx.dag_longest_path(graph, weight="weight") if node != "sink"]
        if len(path) < 2:
            break
        for first, second in zip(path, [*path[1:], "sink"], strict=True):
            graph[first][second]["weight"] = 0.0
        (top_row, left), (bottom_row, right) = path[0], path[-1]
        if min(bottom_row - top_row, right - left) <= shortest:
            continue
        score = float(np.mean([values[node] for node in path]))
        segment = Segment(float(top_row), float(bottom_row), float(left), float(right), score)
        if all(overlap(segment, other.box) < 0.3 for other in found):
            found.append(segment)
    return found


def peer_graph(values: np.ndarray, best: np.ndarray, least: float, max_step: int) -> networkx.DiGraph:
    """Connect similar frames at most `max_step` apart on both axes, unless a node between them connects them."""
    nodes = [[(row, int(column)) for column in best[row] if values[row, column] >= least] for row in range(len(values))]
    graph = networkx.DiGraph()
    graph.add_node("sink")
    for row, starts in enumerate(nodes):
        for start in starts:
            graph.add_edge(start, "sink", weight=0.0)
            nearest = max_step
            for later in range(row + 1, min(row + max_step, len(nodes))):
                steps = [end for end in nodes[later] if 0 < end[1] - start[1] < nearest]
                for end in steps:
                    graph.add_edge(start, end, weight=float(values[end]))
                nearest = min([nearest, *(end[1] - start[1] for end in steps)])
    return graph
