"""Indexes become segments: search the frames, align the candidate pairs, merge."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from configs.videos import VideoSettings
from copytrace.alignment.load import load_aligner, model_digests
from copytrace.alignment.pairs import VideoRows, align_pair
from copytrace.alignment.segments import Segment
from copytrace.errors import InputError
from copytrace.index.media_index import check_model, remove_stale_shards
from copytrace.index.video_index import VideoIndex
from copytrace.progress import Progress
from copytrace.runtime.devices import usable_cores
from copytrace.search.video_candidates import find_video_candidates, read_noise_levels, read_video_candidates
from copytrace.step import VERSION, recorded
from copytrace.storage import count_rows, digest_of, read_stamp, read_table, resolve_path, write_csv, write_table
from copytrace.video_stages.paths import VideoMatchPaths

SEGMENT_SCHEMA = pa.schema(
    [
        *(("query_id", pa.string()), ("ref_id", pa.string())),
        *((name, pa.float64()) for name in ("query_start", "query_end", "ref_start", "ref_end")),
        *(("score", pa.float64()), ("reversed", pa.bool_()), ("pane", pa.string())),
    ]
)
BEST_FIRST = [("score", "descending")] + [
    (name, "ascending") for name in ("query_id", "ref_id", "query_start", "ref_start", "query_end", "ref_end", "pane")
]
Pair = tuple[str, str]


def shards_of(index: Path) -> list[int]:
    """Return the numbers of the shards of a finished index."""
    return VideoIndex.open(index).shards


def count_frames(index: Path) -> int:
    """Return the number of frames, those of panes counted too, in a finished index."""
    opened = VideoIndex.open(index)
    return sum(count for shard in opened.shards for _, count in opened.frame_counts(shard))


def count_pairs(queries: Path, paths: VideoMatchPaths) -> int:
    """Return the number of candidate pairs of all shards."""
    candidates = [paths.candidates(shard) for shard in VideoIndex.open(queries).shards]
    return sum(count_rows(path) for path in candidates)


def search_shard(
    shard: int, queries: Path, references: Path, paths: VideoMatchPaths, settings: VideoSettings, progress: Progress
) -> Path:
    """Write the candidates of a shard of queries, and how alike unrelated frames are to each of its frames.

    Raises `ModelMismatchError` for indexes that other models made, and `InputError` for a noise index that shares an
    id with the references: what it calls noise could be what was copied.
    """
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    noise = VideoIndex.open(resolve_path(settings.search.noise)) if settings.search.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.made_with["descriptor"])
    if noise and (shared := noise.items.keys() & reference_index.items.keys()):
        raise InputError(
            f"search.noise={noise.root} and the references share {len(shared):,} ids, {min(shared)} for instance; "
            "noise must be videos that no query was copied from (index it by a manifest with ids of its own, if it is)"
        )
    path = paths.candidates(shard)
    asked = settings.search.model_dump()
    # A video that came back after it was gone is in another shard, and the index has its old stamp again.
    mine = sorted(identity for identity, (_, home) in query_index.items.items() if home == shard)
    stamps = [query_index.stamp, reference_index.stamp, noise and noise.stamp]
    stamp = digest_of(VERSION, shard, mine, stamps, asked)
    if read_stamp(path) == stamp and read_stamp(paths.noise(shard)) == stamp:
        return path
    rows = sum(count for _, count in query_index.frame_counts(shard))
    with (
        recorded(path.with_suffix(".json"), "search frames", rows),
        progress.stage("search frames", rows, "frames") as stage,
    ):
        return find_video_candidates(
            query_index,
            shard,
            reference_index,
            path,
            paths.noise(shard),
            settings.search,
            noise=noise,
            stage=stage,
            stamp=stamp,
        )


def align_shard(
    shard: int, queries: Path, references: Path, paths: VideoMatchPaths, settings: VideoSettings, progress: Progress
) -> Path:
    """Write the segments of all candidate pairs of a shard of queries."""
    path, asked = paths.segments_of(shard), settings.alignment
    models = model_digests(asked)
    made_by = [asked.model_dump(exclude={"threshold"}), models]
    stamp = digest_of(VERSION, shard, read_stamp(paths.candidates(shard)), made_by)
    if read_stamp(path) == stamp:
        return path
    pairs = [(query, reference) for query, reference, _ in read_video_candidates(paths.candidates(shard))]
    aligner = load_aligner(asked, settings.descriptor, models)

    def align(rows: tuple[Pair, VideoRows, VideoRows]) -> tuple[Pair, list[tuple[Segment, str]]]:
        return rows[0], align_pair(rows[1], rows[2], aligner, weight=asked.noise_weight)

    found: list[tuple[object, ...]] = []
    with (
        recorded(path.with_suffix(".json"), "align pairs", len(pairs)),
        progress.stage("align pairs", len(pairs), "pairs") as stage,
        threadpool_limits(1),
        ThreadPoolExecutor(settings.media.threads or usable_cores()) as pool,
    ):
        for batch in rows_of_pairs(pairs, shard, queries, references, paths.noise(shard)):
            for pair, segments in pool.map(align, batch):
                stage.advance()
                found += [
                    (*pair, *segment.box, segment.score, segment.reversed, pane)
                    for segment, pane in segments
                    if segment.score >= asked.min_score
                ]
        columns = list(zip(*found, strict=True)) if found else [()] * len(SEGMENT_SCHEMA)
        return write_table(path, pa.table(columns, schema=SEGMENT_SCHEMA).sort_by(BEST_FIRST), stamp=stamp)


def rows_of_pairs(
    pairs: list[Pair], shard: int, queries: Path, references: Path, noise: Path
) -> Iterator[list[tuple[Pair, VideoRows, VideoRows]]]:
    """Yield the pairs of a shard of queries with their descriptors, those of one shard of references at a time."""
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    query_rows = _videos(query_index, shard, read_noise_levels(noise))
    homes = {reference: reference_index.items[reference][1] for _, reference in pairs}
    for home, group in groupby(sorted(pairs, key=lambda pair: homes[pair[1]]), key=lambda pair: homes[pair[1]]):
        reference_rows = _videos(reference_index, home, None)
        yield [(pair, query_rows[pair[0]], reference_rows[pair[1]]) for pair in group]


def merge_segments(queries: Path, references: Path, paths: VideoMatchPaths) -> Path:
    """Write `segments.parquet` and `segments.csv`, best first.

    Where queries and references share files, the pairs (a, b) and (b, a) are one: the better-scored one stays. What an
    earlier run left of shards that are no more is deleted.
    """
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    shards = query_index.shards
    for of_shard in (paths.candidates, paths.noise, paths.segments_of):
        remove_stale_shards(of_shard(0).parent, shards)
    parts = [paths.segments_of(shard) for shard in shards]
    stamp = digest_of(VERSION, [read_stamp(part) for part in parts])
    csv = paths.segments.with_suffix(".csv")
    if read_stamp(paths.segments) == stamp and csv.exists():
        return paths.segments
    with recorded(paths.out / "work" / "merge.json", "merge", len(parts)):
        tables = [read_table(part, schema=SEGMENT_SCHEMA) for part in parts]
        table = pa.concat_tables([SEGMENT_SCHEMA.empty_table(), *tables]).sort_by(BEST_FIRST)
        table = _once_each(table, query_index.paths, reference_index.paths)
        write_csv(csv, _rounded(table))
        return write_table(paths.segments, table, stamp=stamp)


def _videos(index: VideoIndex, shard: int, noise: np.ndarray | None) -> dict[str, VideoRows]:
    frames = index.frames(shard)
    levels = np.zeros(len(frames.ids), np.float32) if noise is None else noise
    return {
        identity: VideoRows(frames.panes[rows], frames.times[rows], frames.vectors[rows], levels[rows])
        for identity, rows in frames.rows_of_videos().items()
    }


def _once_each(table: pa.Table, query_paths: dict[str, str], reference_paths: dict[str, str]) -> pa.Table:
    pairs = zip(table.column("query_id").to_pylist(), table.column("ref_id").to_pylist(), strict=True)
    directions = [(query_paths[query], reference_paths[reference]) for query, reference in pairs]
    kept: dict[frozenset[str], tuple[str, str]] = {}
    for direction in directions:
        kept.setdefault(frozenset(direction), direction)  # the best segment comes first
    return table.filter(pa.array([kept[frozenset(direction)] == direction for direction in directions], pa.bool_()))


def _rounded(table: pa.Table) -> pa.Table:
    """Round seconds to milliseconds and scores to a millionth, as nobody reads more."""
    for name in table.column_names:
        if pa.types.is_floating(table.schema.field(name).type):
            digits = 6 if name == "score" else 3
            rounded = np.round(table.column(name).to_numpy(), digits) + 0.0  # no minus zero
            table = table.set_column(table.column_names.index(name), name, pa.array(rounded))
    return table
