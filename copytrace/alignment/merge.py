"""Merging of the segments of all shards into one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from copytrace.index.media_index import remove_stale_shards
from copytrace.index.video_index import VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.step import Step, fingerprint_of
from copytrace.storage import read_table, write_csv, write_table

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


def merge_segments(queries: Path, references: Path, folder: VideoRunFolder) -> Path:
    """Write `segments.parquet` and `segments.csv`, best first, and return the former.

    If queries and references share files, only the better of the pairs (a, b) and (b, a) is kept. Files that an earlier
    run left behind for shards that no longer exist are deleted.
    """
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    shards = query_index.shards
    for shard_file in (folder.candidates, folder.noise, folder.shard_segments):
        remove_stale_shards(shard_file(0).parent, shards)
    parts = [folder.shard_segments(shard) for shard in shards]
    parquet, csv = folder.segments, folder.segments.with_suffix(".csv")
    fingerprints = [fingerprint_of(part) for part in parts]
    step = Step.of("merge", parquet, csv, made_from=[fingerprints], record=folder.work / "merge.json")
    if step.is_done():
        return parquet
    with step.run(len(parts), "shards") as work:
        tables = [read_table(part, schema=SEGMENT_SCHEMA) for part in parts]
        table = pa.concat_tables([SEGMENT_SCHEMA.empty_table(), *tables]).sort_by(BEST_FIRST)
        table = _drop_reversed_duplicates(table, query_index.paths, reference_index.paths)
        write_csv(csv, _round(table))
        write_table(parquet, table)
        work.advance(len(parts))
    return parquet


def _drop_reversed_duplicates(
    table: pa.Table, query_paths: Mapping[str, str], reference_paths: Mapping[str, str]
) -> pa.Table:
    pairs = zip(table.column("query_id").to_pylist(), table.column("ref_id").to_pylist(), strict=True)
    directions = [(query_paths[query], reference_paths[reference]) for query, reference in pairs]
    kept: dict[frozenset[str], tuple[str, str]] = {}
    for direction in directions:
        kept.setdefault(frozenset(direction), direction)  # the best segment comes first
    return table.filter(pa.array([kept[frozenset(direction)] == direction for direction in directions], pa.bool_()))


def _round(table: pa.Table) -> pa.Table:
    """Round seconds to milliseconds and scores to a millionth."""
    for name in table.column_names:
        if pa.types.is_floating(table.schema.field(name).type):
            digits = 6 if name == "score" else 3
            rounded = np.round(table.column(name).to_numpy(), digits) + 0.0  # no minus zero
            table = table.set_column(table.column_names.index(name), name, pa.array(rounded))
    return table
