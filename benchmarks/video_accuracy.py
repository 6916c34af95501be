"""Accuracy of video matching with and without each stage, with each aligner, and of the 2022 challenge's baseline.

python -m benchmarks.video_accuracy [QUERIES REFERENCES GROUND_TRUTH.csv [NOISE]]     default: sample footage

NOISE is a folder of videos that no query is copied from; without it, the references serve as noise.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.alignment import overlap, peer_graph
from configs.load import load_settings
from configs.videos import VideoSettings
from copytrace.alignment.segments import Segment
from copytrace.cli.progress import TerminalProgress
from copytrace.index.video_index import VideoIndex
from copytrace.metrics.video_evaluation import evaluate_videos
from copytrace.run_folder import VideoRunFolder
from copytrace.training.sample_videos import write_demo_videos
from copytrace.videos import index_videos, match_videos

Row = tuple[str, float, float, float]
WHOLE_FRAMES = ["panes.max_panes=0", "panes.detector=none"]
NO_NORMALIZATION = ["search.normalization_weight=0", "alignment.noise_weight=0"]
ROWS = {
    "copytrace": [],
    "  without panes": WHOLE_FRAMES,
    "  without normalization": NO_NORMALIZATION,
    "  pairs by their best frame": ["search.aggregate=best"],
    "  without the pair filter": ["alignment.pair_filter=none"],
    "  by Hough voting, untrained": ["alignment.aligner=hough", "alignment.pair_filter=none"],
    "  by dynamic programming": ["alignment.aligner=dynamic_programming"],
}
COLUMNS = ["query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end", "score"]
# Constants of the challenge's baseline (Pizzi et al., 2024, and its published code).
BETA, SIMILARITY_BIAS, PAIRS_PER_QUERY = 1.2, 0.5, 5
MAX_STEP, MIN_LENGTH, TOP, LEAST, MAX_IOU, PATHS = 5, 4, 5, 0.2, 0.3, 10


def main() -> None:
    """Print segment AP, pair micro-AP and seconds of each method."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if len(sys.argv) >= 4:
            queries, references, truth, *noise = (Path(argument) for argument in sys.argv[1:])
        else:
            demo, noise = write_demo_videos(work / "demo"), []
            queries, references, truth = demo / "queries", demo / "references", demo / "ground_truth.csv"
        table = Table("method", "segment AP", "pair micro-AP", "seconds")
        table.caption = "seconds: without the work shared with a method above"
        for name, *figures, seconds in [
            *_ours(queries, references, truth, noise, work),
            _baseline(queries, references, truth, noise, work),
        ]:
            table.add_row(name, *(f"{figure:.3f}" for figure in figures), f"{seconds:.0f}")
        Console().print(table)


def _ours(queries: Path, references: Path, truth: Path, noise: list[Path], work: Path) -> Iterator[Row]:
    sides = {"whole": queries, "panes": queries}
    begin = time.perf_counter()
    reference_index = index_videos(references, work / "references.index", VideoSettings(), TerminalProgress())
    noise_set = []
    if noise:
        noise_index = index_videos(noise[0], work / "noise.index", VideoSettings(), TerminalProgress())
        noise_set = [f"search.noise={noise_index}"]
    for name, overrides in ROWS.items():
        described = "whole" if overrides == WHOLE_FRAMES else "panes"
        settings = load_settings(VideoSettings, overrides=["report.max_matches=0", *overrides, *noise_set])
        out = work / name.strip()
        match_videos(sides[described], reference_index, out, settings, TerminalProgress())
        if sides[described] == queries:
            sides[described] = VideoRunFolder(out).work / "queries"
        yield _row(name, VideoRunFolder(out).segments, truth, begin)
        begin = time.perf_counter()


def _baseline(queries: Path, references: Path, truth: Path, noise: list[Path], work: Path) -> Row:
    """Return the row of the baseline: ImageNet features of whole frames and a Temporal Network.

    If there is NOISE, each frame's similarities are normalized by its nearest noise frame.
    """
    settings = load_settings(VideoSettings, overrides=["descriptor.model=imagenet", *WHOLE_FRAMES])
    begin = time.perf_counter()
    sides = [("queries", queries), ("references", references), *(("noise", path) for path in noise)]
    read = {name: _frames(index_videos(path, work / f"imagenet-{name}", settings)) for name, path in sides}
    noise_vectors = [vectors for _, vectors in read.get("noise", {}).values()]
    pairs = {}
    for query, (_, vectors) in read["queries"].items():
        bias = BETA * (vectors @ np.concatenate(noise_vectors).T).max(axis=1, keepdims=True) if noise_vectors else 0.0
        pairs |= {(query, name): vectors @ other.T - bias for name, (_, other) in read["references"].items()}
    best = sorted(pairs, key=lambda pair: -pairs[pair].max())[: PAIRS_PER_QUERY * len(read["queries"])]
    rows = [
        (query, name, *segment)
        for query, name in best
        for segment in _temporal_network(pairs[query, name], read["queries"][query][0], read["references"][name][0])
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(work / "baseline.parquet", index=False)
    return _row("VSC2022's baseline, ImageNet features", work / "baseline.parquet", truth, begin)


def _frames(index: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    opened = VideoIndex.open(index)
    videos = {}
    for shard in opened.shards:
        frames = opened.frames(shard)
        videos |= {name: (frames.times[rows], frames.vectors[rows]) for name, rows in frames.rows_of_videos().items()}
    return videos


def _temporal_network(values: np.ndarray, times: np.ndarray, other: np.ndarray) -> list[tuple[float, ...]]:
    biased = values + SIMILARITY_BIAS
    graph = peer_graph(biased, np.argsort(-biased, axis=1)[:, :TOP], LEAST, MAX_STEP)
    segments: list[Segment] = []
    for _ in range(PATHS):
        path = [node for node in networkx.dag_longest_path(graph, weight="weight") if node != "sink"]
        if len(path) < 2:
            break
        for first, second in zip(path, [*path[1:], "sink"], strict=True):
            graph[first][second]["weight"] = 0.0
        (top, left), (bottom, right) = path[0], path[-1]
        if min(bottom - top, right - left) >= MIN_LENGTH:
            score = float(values[top : bottom + 1, left : right + 1].max())
            found = Segment(times[top, 0], times[bottom, 1], other[left, 0], other[right, 1], score)
            if all(overlap(found, segment.box) < MAX_IOU for segment in segments):
                segments.append(found)
    return [(*segment.box, segment.score) for segment in segments]


def _row(name: str, segments: Path, truth: Path, begin: float) -> Row:
    seconds = time.perf_counter() - begin
    overall = evaluate_videos(truth, segments).overall
    return name, overall.segment_ap, overall.pair_ap, seconds


if __name__ == "__main__":
    main()
