"""Seconds to evaluate a million predicted segments, beside a literal implementation of the challenge's rule.

The literal implementation does what the challenge's script does: at every
prediction it builds the unions of all intervals of that pair of videos. It runs on fewer segments of fewer videos, so
that a pair has as many predictions as in the large run: 36 for a true pair, mostly 1 for others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from math import sqrt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as pa_csv

from benchmarks.results import Row, Section
from benchmarks.timing import cpu_seconds
from copytrace.metrics.video_evaluation import SEGMENT_COLUMNS, evaluate_videos
from copytrace.metrics.videos import Segments, judge_segments, segment_curve

SEGMENTS_PER_QUERY = 119  # a million segments for the 8,404 queries of the challenge's training set
REFERENCES_PER_QUERY = 4.8  # likewise
MANY, FEW = 1_000_000, 20_000  # segments
Box = tuple[float, ...]


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Measure both on the same kind of data, after checking that their results agree."""
    truth, few = draw_segments(FEW)
    begin = cpu_seconds()
    expected = literal_segment_ap(truth, few)
    each = {"literal, lists of intervals": (FEW, (cpu_seconds() - begin) / FEW)}
    ap = segment_curve(judge_segments(truth, few)).average_precision
    if abs(ap - expected) > 1e-9:
        raise ArithmeticError(f"segment AP differs: ours {ap}, literal {expected}")
    truth, many = draw_segments(MANY)
    begin = cpu_seconds()
    segment_curve(judge_segments(truth, many))
    each["Copytrace, segment AP alone"] = MANY, (cpu_seconds() - begin) / MANY
    path, truth_path = write(work / "segments.parquet", many), write(work / "truth.parquet", truth)
    begin = cpu_seconds()
    evaluate_videos(truth_path, path)
    each["Copytrace, all figures, from a file"] = MANY, (cpu_seconds() - begin) / MANY
    literal = each["literal, lists of intervals"][1]
    rows = [
        Row(name, {"segments": count, "µs per segment": 1e6 * took, "times as fast": literal / took})
        for name, (count, took) in each.items()
    ]
    text = f"Evaluation of predicted segments; segment AP agrees to 1e-9 on the literal run: {ap:.6f}."
    return [Section("Evaluation of videos beside the challenge's rule", text, rows)]


def draw_segments(count: int) -> tuple[Segments, Segments]:
    """Return a true segment for every third query, and `count` predictions, 3 in 10 with the right reference."""
    random = np.random.default_rng(0)
    videos = max(1, count // SEGMENTS_PER_QUERY)
    true_queries = np.arange(0, videos, 3)
    queries = random.integers(0, videos, count)
    others = random.integers(0, int(videos * REFERENCES_PER_QUERY), count)
    references = np.where(random.random(count) < 0.3, queries, others)
    truth = Segments(names("Q", true_queries), names("R", true_queries), times(random, len(true_queries)))
    scores = random.random(count).round(6)
    return truth, Segments(names("Q", queries), names("R", references), times(random, count), scores)


def names(prefix: str, numbers: np.ndarray) -> np.ndarray:
    """Return ids in the format of the challenge."""
    return np.array([f"{prefix}{number:06}" for number in numbers], dtype=object)


def times(random: np.random.Generator, count: int) -> np.ndarray:
    """Return float64 (count, 4): query start and end, reference start and end, in seconds."""
    starts, lengths = random.uniform(0, 30, (2, count, 2))
    return np.stack([starts, starts + 2 + lengths], axis=2).reshape(count, 4).round(3)


def write(path: Path, segments: Segments) -> Path:
    """Write the columns that `evaluate_videos` reads."""
    values = [segments.queries, segments.references, *np.asarray(segments.times).T]
    columns = dict(zip(SEGMENT_COLUMNS, values, strict=True))
    if segments.scores is not None:
        columns["score"] = segments.scores
    writer = pq.write_table if path.suffix == ".parquet" else pa_csv.write_csv
    writer(pa.table(columns), path)
    return path


def literal_segment_ap(truth: Segments, predictions: Segments) -> float:
    """Return segment AP by the literal rule: a list of boxes per pair, and new unions at every box."""
    true_boxes, boxes = defaultdict(list), defaultdict(list)
    for pair, box in segment_rows(truth):
        true_boxes[pair].append(box)
    totals = [sum(length(union(group, axis)) for group in true_boxes.values()) for axis in (0, 2)]
    right, predicted, measured = [0.0, 0.0], [0.0, 0.0], {}
    ap = recall = 0.0
    scored = sorted(
        zip(predictions.scores, segment_rows(predictions), strict=True), key=lambda row: row[0], reverse=True
    )
    for _, group in groupby(scored, key=lambda row: row[0]):
        for _, (pair, box) in group:
            boxes[pair].append(box)
            met = [true_box for true_box in true_boxes[pair] if any(overlap(true_box, other) for other in boxes[pair])]
            now = []
            for number, axis in enumerate((0, 2)):
                ours, theirs, both = (union(rows, axis) for rows in (boxes[pair], met, boxes[pair] + met))
                now.append((length(ours) + length(theirs) - length(both), length(ours)))
                before = measured.get(pair, ((0.0, 0.0), (0.0, 0.0)))[number]
                right[number] += now[-1][0] - before[0]
                predicted[number] += now[-1][1] - before[1]
            measured[pair] = tuple(now)
        reached = sqrt(max(0.0, right[0] / totals[0]) * max(0.0, right[1] / totals[1]))
        precision = sqrt(max(0.0, right[0] / predicted[0]) * max(0.0, right[1] / predicted[1]))
        ap += precision * (reached - recall)
        recall = reached
    return ap


def segment_rows(segments: Segments) -> list[tuple[tuple[str, str], Box]]:
    """Return ((query, reference), box) per row."""
    pairs = zip(segments.queries, segments.references, strict=True)
    return list(zip(pairs, map(tuple, np.asarray(segments.times).tolist()), strict=True))


def union(boxes: list[Box], axis: int) -> list[tuple[float, float]]:
    """Return the union of the intervals of one axis, in order."""
    united: list[tuple[float, float]] = []
    for start, end in sorted(box[axis : axis + 2] for box in boxes):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(end, united[-1][1]))
        else:
            united.append((start, end))
    return united


def length(intervals: list[tuple[float, float]]) -> float:
    """Return the sum of the intervals' lengths."""
    return sum(end - start for start, end in intervals)


def overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes share an area."""
    return all(min(one[axis + 1], other[axis + 1]) > max(one[axis], other[axis]) for axis in (0, 2))
