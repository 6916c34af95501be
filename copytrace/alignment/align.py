"""Alignment of the candidate pairs of query videos, frame by frame and per shard; then all segments are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from configs.videos import VideoSettings
from copytrace.alignment.aligners import Aligner, load_aligner, model_digests
from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.arrays import Floats, Times
from copytrace.checked_files import read_checked
from copytrace.index.video_index import VideoIndex
from copytrace.panes.names import WHOLE
from copytrace.run_folder import VideoRunFolder, remove_stale_shards
from copytrace.runtime import usable_cores
from copytrace.search.own_files import SharedFiles
from copytrace.search.sorted_pairs import SortedPairs
from copytrace.search.video_candidates import read_noise_levels, read_video_candidates
from copytrace.step import Step, fingerprint_of
from copytrace.tables import table_of_rows, write_table

Pair = tuple[str, str]  # ids of a query and of a reference
PaneChoice = Literal["moment", "block"]

BLOCK_FRAMES = 10  # of a pane, whose cosines decide which pane is compared

SMALLEST_RANGE = 0.1  # least difference of cosine between unrelated and equal frames in the normalization
RULES_VERSION = 4  # of the lines and scores; an unfinished run of an earlier one aligns its pairs again

SEGMENT_SCHEMA = pa.schema(
    [
        *(("query_id", pa.string()), ("ref_id", pa.string())),
        *((name, pa.float64()) for name in ("query_start", "query_end", "ref_start", "ref_end")),
        *(("score", pa.float64()), ("reversed", pa.bool_()), ("pane", pa.string())),
    ]
)
PAIR = ("query_id", "ref_id")
BEST_FIRST = [("score", "descending")] + [
    (name, "ascending") for name in ("query_id", "ref_id", "query_start", "ref_start", "query_end", "ref_end", "pane")
]


def align_pairs(shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings) -> Path:
    """Write the segments of all candidate pairs of a shard of queries, best first, and return the file."""
    path, rules = folder.shard_segments(shard), settings.alignment
    candidates, models = folder.candidates(shard), model_digests(rules)
    made_from = [
        RULES_VERSION,
        shard,
        fingerprint_of(candidates),
        rules.model_dump(exclude={"threshold", "verified_segments", "exact_ends", "signatures"}),
        models,
    ]
    step = Step.of("align pairs", path, made_from=made_from)
    if step.is_done():
        return path
    pairs = [(query, reference) for query, reference, _ in read_video_candidates(candidates)]
    aligner = load_aligner(rules, settings.descriptor, models)

    def align(job: tuple[Pair, VideoRows, VideoRows]) -> tuple[Pair, list[tuple[Segment, str]]]:
        pair, query, reference = job
        return pair, align_pair(query, reference, aligner, weight=rules.noise_weight, panes=rules.panes)

    rows: list[tuple[object, ...]] = []
    with (
        step.run(len(pairs), "pairs") as work,
        threadpool_limits(1),
        ThreadPoolExecutor(settings.media.threads or usable_cores()) as pool,
    ):
        for batch in read_pairs(pairs, shard, queries, references, folder.noise(shard)):
            for pair, segments in pool.map(align, batch):
                work.advance()
                rows += [
                    (*pair, *segment.box, segment.score, segment.reversed, pane)
                    for number, (segment, pane) in enumerate(segments)
                    if segment.score >= rules.min_score or not number  # points may support the best one all the same
                ]
        write_table(path, table_of_rows(rows, SEGMENT_SCHEMA).sort_by(BEST_FIRST))
    return path


def read_pairs(
    pairs: Sequence[Pair], shard: int, queries: Path, references: Path, noise: Path
) -> Iterator[list[tuple[Pair, VideoRows, VideoRows]]]:
    """Yield pairs of a shard of queries with their descriptors, one list per shard of references."""
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    query_rows = _videos(query_index, shard, read_noise_levels(noise))
    shards = {reference: reference_index.shard_of(reference) for _, reference in pairs}
    ordered = sorted(pairs, key=lambda pair: shards[pair[1]])
    for reference_shard, group in groupby(ordered, key=lambda pair: shards[pair[1]]):
        reference_rows = _videos(reference_index, reference_shard, None)
        yield [(pair, query_rows[pair[0]], reference_rows[pair[1]]) for pair in group]


def _videos(index: VideoIndex, shard: int, noise: Floats | None) -> dict[str, VideoRows]:
    frames = index.frames(shard)
    levels = np.zeros(len(frames.ids), np.float32) if noise is None else noise
    return {
        identity: VideoRows(frames.panes[rows], frames.times[rows], frames.vectors[rows], levels[rows])
        for identity, rows in frames.rows_of_videos().items()
    }


@dataclass(frozen=True, slots=True)
class VideoRows:
    """Descriptors of one video: N rows, one per frame and pane, in any order.

    `times` float64 [N, 2], start and end in seconds; `vectors` float32 [N, D], unit length; `noise` float32 [N], the
    similarity of unrelated frames to each row (0 for references).
    """

    panes: Sequence[str]
    times: Times
    vectors: Floats
    noise: Floats


@dataclass(frozen=True, slots=True)
class PaneMatrix:
    """The similarity matrix of all panes: the largest value of the panes, and the index of that pane, int16 [Q, R]."""

    matrix: SimilarityMatrix
    panes: tuple[str, ...]
    pane: NDArray[np.int16]

    def find_pane(self, segment: Segment) -> str:
        """Return the name of the pane with the most similarity along the segment's line."""
        query, reference = self.matrix.query_times.mean(axis=1), self.matrix.reference_times.mean(axis=1)
        rows = np.flatnonzero((query > segment.query_start) & (query < segment.query_end))
        if not len(rows):
            rows = np.abs(query - (segment.query_start + segment.query_end) / 2).argmin(keepdims=True)
        expected = [segment.reference_at(second) for second in query[rows]]
        columns = np.abs(reference[None] - np.array(expected)[:, None]).argmin(axis=1)
        weights = np.maximum(self.matrix.values[rows, columns], 1e-6)
        return self.panes[int(np.bincount(self.pane[rows, columns], weights).argmax())]


def compare_videos(
    query: VideoRows, reference: VideoRows, *, weight: float = 1.0, panes: PaneChoice = "moment"
) -> PaneMatrix:
    """Compare every moment of a query with every moment of a reference, each in its best pane.

    With `panes` "block", only one pane of the query is compared, the one whose ten best frames have the highest mean
    cosine (VSC2022's winners).

    A value is (cosine − n) / (1 − n), where n is `weight` times the row's noise level: 0 at the similarity of unrelated
    frames, 1 for equal frames. For n above 0.9 (such as black frames, which are all similar), `SMALLEST_RANGE` replaces
    1 − n. Rows with the same start are one moment; rows and columns are sorted by start.
    """
    query = query if panes == "moment" else _best_block(query, reference)
    names = tuple(dict.fromkeys((WHOLE, *query.panes)))
    of_row = np.array([names.index(name) for name in query.panes], np.int16)
    columns = np.argsort(reference.times[:, 0], kind="stable")
    vectors, times = reference.vectors[columns], reference.times[columns]
    _, first_column = np.unique(times[:, 0], return_index=True)
    starts, moment = np.unique(query.times[:, 0], return_inverse=True)
    order = np.lexsort((of_row, moment))
    first = np.searchsorted(moment[order], np.arange(len(starts)))
    rank = np.arange(len(order)) - first[moment[order]]
    best = np.full((len(starts), len(first_column)), -np.inf, np.float32)
    pane = np.zeros(best.shape, np.int16)
    level = (np.float32(weight) * query.noise)[:, None]
    for layer in range(rank.max(initial=-1) + 1):
        rows = order[rank == layer]  # at most one row of each moment
        at = moment[rows]
        values = np.maximum.reduceat(query.vectors[rows] @ vectors.T, first_column, axis=1)
        values = (values - level[rows]) / np.maximum(1 - level[rows], SMALLEST_RANGE)
        better = values > best[at]
        best[at] = np.where(better, values, best[at])
        pane[at] = np.where(better, of_row[rows, None], pane[at])
    return PaneMatrix(SimilarityMatrix(best, query.times[order][first], times[first_column]), names, pane)


def _best_block(query: VideoRows, reference: VideoRows) -> VideoRows:
    if len(set(query.panes)) < 2 or not len(reference.vectors):
        return query
    best = (query.vectors @ reference.vectors.T).max(axis=1)
    panes = np.array(query.panes, object)
    means = {pane: np.sort(best[panes == pane])[-BLOCK_FRAMES:].mean() for pane in dict.fromkeys(query.panes)}
    rows = np.flatnonzero(panes == max(means, key=lambda pane: means[pane]))
    return VideoRows([query.panes[int(row)] for row in rows], query.times[rows], query.vectors[rows], query.noise[rows])


def align_pair(
    query: VideoRows, reference: VideoRows, aligner: Aligner, *, weight: float = 1.0, panes: PaneChoice = "moment"
) -> list[tuple[Segment, str]]:
    """Return the segments of a pair, best first, each with the query's pane that shows it."""
    compared = compare_videos(query, reference, weight=weight, panes=panes)
    return [(segment, compared.find_pane(segment)) for segment in aligner.align(compared.matrix)]


def merge_segments(queries: Path, references: Path, folder: VideoRunFolder) -> Path:
    """Write `segments.parquet` and `segments.csv`, best first, and return the former.

    If queries and references share files, only the better of the pairs (a, b) and (b, a) is kept. Files that an earlier
    run left behind for shards that no longer exist are deleted.
    """
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    shards = query_index.shards
    for shard_file in (
        folder.editing,
        folder.candidates,
        folder.noise,
        folder.shard_segments,
        folder.verified_segments,
        folder.exact_segments,
        folder.signature_segments,
    ):
        remove_stale_shards(shard_file(0).parent, shards)
    parts = [folder.signature_segments(shard) for shard in shards]
    parquet, csv = folder.segments, folder.segments.with_suffix(".csv")
    paths = [index.items.path_digest for index in (query_index, reference_index)]
    made_from = [[fingerprint_of(part) for part in parts], paths]
    step = Step.of("merge", parquet, csv, made_from=made_from, record=folder.merged)
    if step.is_done():
        return parquet
    with step.run(len(parts), "shards") as work, SortedPairs(SEGMENT_SCHEMA, BEST_FIRST, PAIR) as segments:
        for part in parts:
            segments.add(read_checked(part, schema=SEGMENT_SCHEMA))
            work.advance()
        segments.write(parquet, (query_index.paths, reference_index.paths), SharedFiles.keep_first_direction, _round)
    return parquet


def _round(table: pa.Table) -> pa.Table:
    """Round seconds to milliseconds and scores to a millionth."""
    for name in table.column_names:
        if pa.types.is_floating(table.schema.field(name).type):
            digits = 6 if name == "score" else 3
            rounded = np.round(table.column(name).to_numpy(), digits) + 0.0  # no minus zero
            table = table.set_column(table.column_names.index(name), name, pa.array(rounded))
    return table
