"""The step that finds, by the temporal signatures of both videos, which seconds of a reference each segment shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.videos import VideoSettings
from copytrace.alignment.align import BEST_FIRST, SEGMENT_SCHEMA
from copytrace.alignment.pane_boxes import PaneBoxes
from copytrace.alignment.segment_tables import (
    LEAST_SCORE,
    best_of_each_query,
    replace_segments,
    room_between,
    segments_of,
)
from copytrace.alignment.segments import Segment
from copytrace.alignment.signature_lines import align_signatures, windows_of
from copytrace.alignment.temporal_signatures import read_signature
from copytrace.checked_files import read_checked
from copytrace.errors import MediaError
from copytrace.index.given_up import limits_of
from copytrace.index.video_index import VideoIndex
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.prefetch import prefetch
from copytrace.run_folder import VideoRunFolder
from copytrace.runtime import usable_cores
from copytrace.step import Step, fingerprint_of
from copytrace.tables import write_table

RULES_VERSION = 1


def compare_signatures(
    shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> Path:
    """Write the segments of a shard of queries with the lines and the scores that the signatures of videos support.

    Of each query, these are the best `alignment.verified_segments` with a score of `LEAST_SCORE` or more. Segments of
    videos that cannot be read stay as they are. Returns the file.
    """
    found, path = folder.exact_segments(shard), folder.signature_segments(shard)
    rules, index = settings.alignment, VideoIndex.open(queries)
    made_from = [RULES_VERSION, shard, fingerprint_of(found), rules.signatures and rules.verified_segments]
    step = Step.of("compare signatures", path, made_from=made_from)
    if step.is_done():
        return path
    table = read_checked(found, schema=SEGMENT_SCHEMA)
    rows = best_of_each_query(table, rules.verified_segments, LEAST_SCORE) if rules.signatures else []
    boxes = PaneBoxes.of(index.pane_boxes(shard))
    reader = _Reader(index.paths, VideoIndex.open(references).paths, boxes, limits_of(settings.media))
    columns = [table.column(name).to_pylist() for name in ("query_id", "ref_id", "pane")]
    of_pair: defaultdict[tuple[str, str], list[Segment]] = defaultdict(list)
    jobs = []
    for row, segment in zip(rows, segments_of(table, rows), strict=True):
        query, reference, pane = (column[row] for column in columns)
        of_pair[query, reference].append(segment)
        jobs.append(_Job(row, query, reference, pane, segment, of_pair[query, reference]))
    threads = settings.media.threads or usable_cores()
    aligned: dict[int, Segment] = {}
    with step.run(len(rows), "segments") as work:
        for job, found_so in prefetch(jobs, reader.align, threads=threads, ahead=threads):
            if not isinstance(found_so, MediaError):
                aligned[job.row] = found_so
            work.advance()
        write_table(path, replace_segments(table, aligned).sort_by(BEST_FIRST))
    return path


@dataclass(frozen=True, slots=True)
class _Job:
    row: int
    query: str
    reference: str
    pane: str
    segment: Segment
    of_both: list[Segment]  # the segments of both videos


@dataclass(frozen=True, slots=True)
class _Reader:
    """What reads videos by their ids: paths of queries and references, boxes of panes, and the limits of decoding."""

    queries: Mapping[str, str]
    references: Mapping[str, str]
    boxes: PaneBoxes
    limits: DecodingLimits

    def align(self, job: _Job) -> Segment:
        """Return the segment of a job with another line and score. Raises `MediaError` if a video cannot be opened."""
        shown, original = windows_of(job.segment)
        box = self.boxes.usual_box(job.query, job.pane, job.segment)
        query = read_signature(self.queries[job.query], shown, self.limits, box)
        reference = read_signature(self.references[job.reference], original, self.limits)
        return align_signatures(job.segment, query, reference, room_between(job.of_both, job.segment))
