"""Verification of segments by points: whether both videos show the same pictures at the same moments of a segment.

To a descriptor, pages of one layout, windows of one program or stills of one place are all alike, so neither likeness
nor its change along a segment tells a copy from another video of the same origin. The points of the pictures do.

Nor do likenesses tell the moments of such a copy, or find any line at all. A segment whose pictures do not support it
is moved to where both videos show the same pictures, if its pictures support it there. And if no segment of a query is
supported that is short or of drawn pictures, its best candidates without a line are looked at too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from configs.videos import VideoSettings
from copytrace.alignment.align import BEST_FIRST, PAIR, SEGMENT_SCHEMA, Pair, read_pairs
from copytrace.alignment.picture_evidence import REFUTED
from copytrace.alignment.picture_look import Job, Look
from copytrace.alignment.segment_tables import best_of_each_query, replace_segments, segments_of
from copytrace.alignment.segments import Segment
from copytrace.checked_files import read_checked
from copytrace.errors import MediaError
from copytrace.index.given_up import limits_of
from copytrace.index.video_index import VideoIndex
from copytrace.media.prefetch import prefetch
from copytrace.panes.names import WHOLE
from copytrace.run_folder import VideoRunFolder
from copytrace.runtime import usable_cores
from copytrace.search.video_candidates import read_video_candidates
from copytrace.step import Step, StepRun, fingerprint_of
from copytrace.tables import table_of_rows, write_table

RULES_VERSION = 7
NO_LINE = (0, Segment(0.0, 1.0, 0.0, 1.0, 0.0))  # row and segment of a pair that has none


def verify_segments(
    shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> Path:
    """Write the segments of a shard of queries with the scores that the points of their pictures support.

    Of each query, the best `alignment.verified_segments` are verified; fewer have more candidates without a segment
    looked at, if none of them is supported. Segments of videos that cannot be read keep their score. Those that then
    score less than `alignment.min_score` are left out. Returns the file. Of each pair, one segment is moved at most,
    and only if no other one is supported as well.
    """
    found, path = folder.shard_segments(shard), folder.verified_segments(shard)
    rules = settings.alignment
    made_from = [RULES_VERSION, shard, fingerprint_of(found), rules.verified_segments, rules.min_score]
    step = Step.of("verify segments", path, made_from=made_from)
    if step.is_done():
        return path
    table = read_checked(found, schema=SEGMENT_SCHEMA)
    rows = best_of_each_query(table, rules.verified_segments)
    paths = [VideoIndex.open(index).paths for index in (queries, references)]
    look = Look.at(paths[0], paths[1], limits_of(settings.media))
    threads, sources = settings.media.threads or usable_cores(), (shard, queries, references, folder.noise(shard))
    with step.run(len(rows), "segments") as work:
        table = _verify_rows(table, _jobs(_by_pair(table, rows), *sources), look, threads, work)
        candidates = [pair[:2] for pair in read_video_candidates(folder.candidates(shard))]
        unlined = {pair: [NO_LINE] for pair in _pairs_without_line(table, candidates, rules.verified_segments)}
        lines = prefetch(_jobs(unlined, *sources), look.find_unseen_line, threads=threads, ahead=threads)
        new = [
            (*job[1], *line.box, line.score, line.reversed, WHOLE) for job, line in lines if isinstance(line, Segment)
        ]
        table = pa.concat_tables([table, table_of_rows(new, SEGMENT_SCHEMA)])
        kept = table.column("score").to_numpy() >= rules.min_score
        write_table(path, table.filter(pa.array(kept)).sort_by(BEST_FIRST))
    return path


def _by_pair(table: pa.Table, rows: Sequence[int]) -> dict[Pair, list[tuple[int, Segment]]]:
    of_pair: defaultdict[Pair, list[tuple[int, Segment]]] = defaultdict(list)
    ids = [table.column(name).to_pylist() for name in PAIR]
    for row, segment in zip(rows, segments_of(table, rows), strict=True):
        of_pair[ids[0][row], ids[1][row]].append((row, segment))
    return of_pair


def _jobs(
    of_pair: Mapping[Pair, Sequence[tuple[int, Segment]]], shard: int, queries: Path, references: Path, noise: Path
) -> Iterator[Job]:
    """Yield the job of each row and segment of each pair."""
    for batch in read_pairs(list(of_pair), shard, queries, references, noise):
        for pair, query, reference in batch:
            for row, segment in of_pair[pair]:
                yield row, pair, segment, query, reference


def _verify_rows(table: pa.Table, jobs: Iterable[Job], look: Look, threads: int, work: StepRun) -> pa.Table:
    """Return a table in which the segments of the jobs have verified scores, and are moved if that is supported."""
    verified: dict[int, Segment] = {}
    moved: defaultdict[Pair, list[tuple[int, Segment]]] = defaultdict(list)
    for (row, pair, *_), found_so in prefetch(jobs, look.verify, threads=threads, ahead=threads):
        if not isinstance(found_so, MediaError):
            verified[row] = found_so[0]
            moved[pair] += [(row, segment) for segment in found_so[1:]]
        work.advance()
    elsewhere = _supported(moved, table, verified)
    return replace_segments(table, verified | elsewhere, in_whole=elsewhere.keys())


def _supported(
    moved: Mapping[Pair, Sequence[tuple[int, Segment]]], table: pa.Table, verified: Mapping[int, Segment]
) -> dict[int, Segment]:
    """Return the best moved segment of each pair, by its row, if it scores more than all others of the pair."""
    scores: defaultdict[Pair, float] = defaultdict(float)
    columns = [table.column(name).to_pylist() for name in ("query_id", "ref_id", "score")]
    for row, (query, reference, score) in enumerate(zip(*columns, strict=True)):
        scores[query, reference] = max(scores[query, reference], verified[row].score if row in verified else score)
    best = {pair: max(segments, key=lambda each: each[1].score) for pair, segments in moved.items() if segments}
    return dict(each for pair, each in best.items() if each[1].score > scores[pair])


def _pairs_without_line(table: pa.Table, candidates: Iterable[Pair], count: int) -> list[Pair]:
    """Return the best candidate pairs that have no segment, of the queries of which no segment is supported.

    Of each query, `count` pairs are looked at in all.
    """
    best: defaultdict[str, float] = defaultdict(float)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    columns = [table.column(name).to_pylist() for name in ("query_id", "ref_id", "score")]
    for query, reference, score in zip(*columns, strict=True):
        best[query] = max(best[query], score)
        seen[query].add(reference)
    found = []
    for query, reference in candidates:
        if best[query] < REFUTED and len(seen[query]) < count and reference not in seen[query]:
            seen[query].add(reference)
            found.append((query, reference))
    return found
