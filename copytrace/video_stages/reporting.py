"""Segments become a page and a summary that people read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.alignment.load import model_digests
from copytrace.alignment.pairs import compare_videos
from copytrace.alignment.segments import Segment
from copytrace.index.video_index import VideoIndex
from copytrace.media.failures import read_failures
from copytrace.object_store import redact, redact_all
from copytrace.progress import Progress
from copytrace.report.videos import PaneSegment, VideoMatch, write_video_report
from copytrace.step import VERSION, read_record, recorded, summarise, versions
from copytrace.storage import digest_of, read_stamp, read_table, write_json
from copytrace.video_stages.matching import SEGMENT_SCHEMA, Pair, rows_of_pairs
from copytrace.video_stages.paths import VideoMatchPaths

LEAST_SHOWN = 0.01  # score of a pair's second and further segments on the page; the tables have all

Boxes = dict[tuple[str, str], dict[float, tuple[float, float, float, float]]]


def report(
    queries: Path, references: Path, paths: VideoMatchPaths, settings: VideoSettings, progress: Progress
) -> Path:
    """Write `report.html`, unless the one there shows these very segments."""
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    record, threshold = paths.out / "work" / "report.json", settings.alignment.threshold
    failures = len(read_failures(paths.failures))
    state = digest_of(VERSION, read_stamp(paths.segments), settings.report.model_dump(), threshold, failures)
    if paths.report.exists() and read_record(record).get("shown") == state:
        return paths.report
    chosen = _best_pairs(paths.segments, settings.report.max_matches)
    with recorded(record, "report", len(chosen)) as entry:
        entry["shown"] = state
        return write_video_report(
            _matches(chosen, query_index, references, paths, settings.alignment.noise_weight),
            paths.report,
            query_paths=query_index.paths,
            reference_paths=reference_index.paths,
            summary={
                "queries": len(query_index.items),
                "references": len(reference_index.items),
                **_count_pairs(paths.segments, threshold),
                "failures": failures,
                "version": VERSION,
            },
            threshold=threshold,
            max_matches=settings.report.max_matches,
            progress=progress,
        )


def summarise_run(queries: Path, references: Path, paths: VideoMatchPaths, settings: VideoSettings) -> dict[str, Any]:
    """Write `run.json`: settings, versions, models, counts, seconds and peak memory per stage; and return it."""
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    scores = read_table(paths.segments, columns=["score"]).column("score").to_numpy()
    counted = _count_pairs(paths.segments, settings.alignment.threshold)
    records = [*(queries / "receipts").glob("*.json"), *(references / "receipts").glob("*.json")]
    records += paths.out.glob("work/*.json")
    for shard in query_index.shards:
        records += [paths.candidates(shard).with_suffix(".json"), paths.segments_of(shard).with_suffix(".json")]
    facts = [index.facts().values() for index in (query_index, reference_index)]
    run = {
        "settings": redact_all(settings.model_dump(by_alias=True)),
        "versions": versions(),
        "models": {
            "descriptor": query_index.made_with["descriptor"],
            "alignment": model_digests(settings.alignment),
        },
        "indexes": {"queries": redact(str(queries.absolute())), "references": redact(str(references.absolute()))},
        "counts": {
            "queries": len(query_index.items),
            "references": len(reference_index.items),
            "query_hours": round(sum(video.duration for video in facts[0]) / 3600, 3),
            "reference_hours": round(sum(video.duration for video in facts[1]) / 3600, 3),
            "failures": len(read_failures(paths.failures)),
            "segments": len(scores),
            "copied_segments": int((scores >= settings.alignment.threshold).sum()),
            **counted,
        },
        "stages": summarise(records),
    }
    write_json(paths.out / "run.json", run)
    return run


def _count_pairs(segments: Path, threshold: float) -> dict[str, int]:
    """Count the pairs, those whose best segment is a copy, and the queries of these."""
    table = read_table(segments, columns=["query_id", "ref_id", "score"])
    pairs = table.group_by(["query_id", "ref_id"]).aggregate([("score", "max")])
    copies = pairs.filter(pa.array(pairs.column("score_max").to_numpy() >= threshold))
    queries = pc.count_distinct(copies.column("query_id")).as_py()
    return {"pairs": len(pairs), "copies": len(copies), "queries_with_copies": queries}


def _best_pairs(path: Path, limit: int) -> dict[Pair, list[tuple[Segment, str]]]:
    """Return the segments of the pairs whose best segment scores highest; the file has the best first."""
    chosen: dict[Pair, list[tuple[Segment, str]]] = {}
    for row in read_table(path, schema=SEGMENT_SCHEMA).to_pylist():
        pair = (row["query_id"], row["ref_id"])
        if row["score"] >= LEAST_SHOWN if pair in chosen else len(chosen) < limit:
            box = (row["query_start"], row["query_end"], row["ref_start"], row["ref_end"])
            chosen.setdefault(pair, []).append((Segment(*box, row["score"], row["reversed"]), row["pane"]))
    return chosen


def _matches(
    chosen: dict[Pair, list[tuple[Segment, str]]],
    queries: VideoIndex,
    references: Path,
    paths: VideoMatchPaths,
    noise_weight: float,
) -> Iterator[VideoMatch]:
    """Yield the matches shard by shard, their matrices made anew."""
    homes = {pair: queries.items[pair[0]][1] for pair in chosen}
    for shard, group in groupby(sorted(chosen, key=lambda pair: homes[pair]), key=lambda pair: homes[pair]):
        boxes = _boxes_of(queries, shard)
        for batch in rows_of_pairs(list(group), shard, queries.root, references, paths.noise(shard)):
            for pair, query, reference in batch:
                matrix = compare_videos(query, reference, weight=noise_weight).matrix
                segments = [
                    PaneSegment(segment, pane, _boxes_at(matrix.query_times, boxes.get((pair[0], pane), {})))
                    for segment, pane in chosen[pair]
                ]
                yield VideoMatch(*pair, segments[0].segment.score, segments, matrix)


def _boxes_of(queries: VideoIndex, shard: int) -> Boxes:
    boxes: Boxes = {}
    for row in queries.pane_boxes(shard).to_pylist():
        at = boxes.setdefault((row["id"], row["pane"]), {})
        at[row["start"]] = (row["x0"], row["y0"], row["x1"], row["y1"])
    return boxes


def _boxes_at(times: NDArray[np.float64], boxes: dict[float, tuple[float, float, float, float]]) -> NDArray[np.float32]:
    nowhere = (np.nan,) * 4
    return np.array([boxes.get(start, nowhere) for start in times[:, 0]], np.float32)
