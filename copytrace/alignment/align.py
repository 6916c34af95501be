"""Alignment of the candidate pairs of a shard of query videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from configs.videos import VideoSettings
from copytrace.alignment.load import load_aligner, model_digests
from copytrace.alignment.merge import BEST_FIRST, SEGMENT_SCHEMA
from copytrace.alignment.pairs import VideoRows, align_pair
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.index.media_index import table_of_rows
from copytrace.index.video_index import VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.runtime import usable_cores
from copytrace.search.video_candidates import read_noise_levels, read_video_candidates
from copytrace.step import Step, fingerprint_of
from copytrace.storage import write_table

Pair = tuple[str, str]  # ids of a query and of a reference


def align_pairs(shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings) -> Path:
    """Write the segments of all candidate pairs of a shard of queries, best first, and return the file."""
    path, rules = folder.shard_segments(shard), settings.alignment
    candidates, models = folder.candidates(shard), model_digests(rules)
    made_from = [shard, fingerprint_of(candidates), rules.model_dump(exclude={"threshold"}), models]
    step = Step.of("align pairs", path, made_from=made_from)
    if step.is_done():
        return path
    pairs = [(query, reference) for query, reference, _ in read_video_candidates(candidates)]
    aligner = load_aligner(rules, settings.descriptor, models)

    def align(job: tuple[Pair, VideoRows, VideoRows]) -> tuple[Pair, list[tuple[Segment, str]]]:
        pair, query, reference = job
        return pair, align_pair(query, reference, aligner, weight=rules.noise_weight)

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
                    for segment, pane in segments
                    if segment.score >= rules.min_score
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
