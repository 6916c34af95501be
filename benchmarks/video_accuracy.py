"""Accuracy of video matching with and without each stage, with each aligner, and of the 2022 challenge's baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import networkx
import numpy as np
import pandas as pd

from benchmarks.alignment import overlap, peer_graph
from benchmarks.evaluation_sets import EvaluationSet, choose_set
from benchmarks.image_accuracy import cost_of
from benchmarks.results import Row, Section
from benchmarks.timing import cpu_seconds
from configs.load import load_settings
from configs.videos import VideoSettings
from copytrace.alignment.segments import Segment
from copytrace.index.video_index import VideoIndex
from copytrace.metrics.video_evaluation import evaluate_videos
from copytrace.run_folder import VideoRunFolder
from copytrace.videos import index_videos, match_videos

WHOLE_FRAMES = ["panes.max_panes=0", "panes.detector=none"]
NO_NORMALIZATION = ["search.normalization_weight=0", "alignment.noise_weight=0"]
ROWS = {
    "Copytrace": [],
    "without panes": WHOLE_FRAMES,
    "without normalization": NO_NORMALIZATION,
    "pairs by their best frame": ["search.aggregate=best"],
    "without the pair filter": ["alignment.pair_filter=none"],
    "by Hough voting, untrained": ["alignment.aligner=hough", "alignment.pair_filter=none"],
    "by dynamic programming": ["alignment.aligner=dynamic_programming"],
}
COLUMNS = ["query_id", "ref_id", "query_start", "query_end", "ref_start", "ref_end", "score"]
# Constants of the challenge's baseline (Pizzi et al., 2024, and its published code).
BETA, SIMILARITY_BIAS, PAIRS_PER_QUERY = 1.2, 0.5, 5
MAX_STEP, MIN_LENGTH, TOP, LEAST, MAX_IOU, PATHS = 5, 4, 5, 0.2, 0.3, 10


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Match a set of videos in several ways, and return the accuracy of each and the cost of the first run."""
    videos = choose_set("videos", given, work)
    rows = list(_ours(videos, work))
    run = json.loads((work / "Copytrace" / "run.json").read_text("utf-8"))
    counts = run["counts"]
    noise = "as noise serve videos that no query was copied from" if videos.noise else "the references serve as noise"
    text = (
        f"{counts['queries']:,} queries and {counts['references']:,} references ({videos.name}); {noise}. "
        "*Seconds*: of one core, without the work that a row shares with one above."
    )
    return [Section("Accuracy of video matching", text, [*rows, _baseline(videos, work)]), cost_of(run, "videos")]


def _ours(videos: EvaluationSet, work: Path) -> Iterator[Row]:
    sides = {"whole": videos.queries, "panes": videos.queries}
    begin = cpu_seconds()
    reference_index = index_videos(videos.references, work / "references.index")
    noise = [f"search.noise={index_videos(videos.noise, work / 'noise.index')}"] if videos.noise else []
    for name, overrides in ROWS.items():
        described = "whole" if overrides == WHOLE_FRAMES else "panes"
        settings = load_settings(VideoSettings, overrides=["report.max_matches=0", *overrides, *noise])
        out = work / name
        match_videos(sides[described], reference_index, out, settings)
        if sides[described] == videos.queries:
            sides[described] = VideoRunFolder(out).work / "queries"
        yield _row(name, VideoRunFolder(out).segments, videos, begin)
        begin = cpu_seconds()


def _baseline(videos: EvaluationSet, work: Path) -> Row:
    """Return the row of the baseline: ImageNet features of whole frames and a Temporal Network.

    If there is noise, each frame's similarities are normalized by its nearest noise frame.
    """
    settings = load_settings(VideoSettings, overrides=["descriptor.model=imagenet", *WHOLE_FRAMES])
    begin = cpu_seconds()
    sides = {"queries": videos.queries, "references": videos.references}
    if videos.noise:
        sides["noise"] = videos.noise
    read = {name: _frames(index_videos(path, work / f"imagenet-{name}", settings)) for name, path in sides.items()}
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
    return _row("VSC2022's baseline, ImageNet features", work / "baseline.parquet", videos, begin)


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


def _row(name: str, segments: Path, videos: EvaluationSet, begin: float) -> Row:
    seconds = cpu_seconds() - begin
    overall = evaluate_videos(videos.truth, segments).overall
    return Row(name, {"segment AP": overall.segment_ap, "micro-AP of pairs": overall.pair_ap, "seconds": seconds})
