"""Verification of segments by points: whether both videos show the same pictures at the same moments of a segment.

To a descriptor, pages of one layout, windows of one program or stills of one place are all alike, so neither likeness
nor its change along a segment tells a copy from another video of the same origin. The points of the pictures do.

Nor do likenesses tell the moments of such a copy. A segment whose pictures do not support it is moved to where both
videos show the same pictures, if its pictures support it there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace.alignment.align import BEST_FIRST, PAIR, SEGMENT_SCHEMA, VideoRows, read_pairs
from copytrace.alignment.picture_evidence import ALIKE, REFUTED, Moment, is_photograph, verified_score
from copytrace.alignment.same_pictures import (
    Thumbnails,
    align_alike_pictures,
    align_same_pictures,
    is_plain_beside,
    read_thumbnails,
)
from copytrace.alignment.segment_tables import best_of_each_query, replace_segments, segments_of
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.checked_files import read_checked
from copytrace.errors import MediaError
from copytrace.features.thumbnails import thumbnail
from copytrace.index.given_up import limits_of
from copytrace.index.video_index import VideoIndex
from copytrace.matching.ground import SURELY_DRAWN, flat_ground
from copytrace.matching.same_picture import compare_pictures
from copytrace.matching.score import Calibration, load_calibration
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import frames_at
from copytrace.media.prefetch import prefetch
from copytrace.run_folder import VideoRunFolder
from copytrace.runtime import usable_cores
from copytrace.step import Step, fingerprint_of
from copytrace.tables import write_table

MOMENTS = (0.5, 0.25, 0.75)  # of a segment, where pictures are compared
SIDE = 640  # longest side of the pictures, in pixels
RULES_VERSION = 5
SURE = 0.98  # score that is kept without a look at pictures that are not alike
LEAST_ALIKE = 0.5  # similarity below which no pictures are looked at
VIDEOS_KEPT = 64  # whose thumbnails are in memory, each up to half a megabyte


def verify_segments(
    shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> Path:
    """Write the segments of a shard of queries with the scores that the points of their pictures support.

    Of each query, the best `alignment.verified_segments` are verified. Segments of videos that cannot be read keep
    their score. Those that then score less than `alignment.min_score` are left out. Returns the file. Of each pair,
    one segment is moved at most, and only if no other one is supported as well.
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
    verified: dict[int, Segment] = {}
    moved: defaultdict[tuple[str, str], list[tuple[int, Segment]]] = defaultdict(list)
    threads = settings.media.threads or usable_cores()
    with step.run(len(rows), "segments") as work:
        jobs = _jobs(table, rows, shard, queries, references, folder.noise(shard))
        for (row, pair, *_), found_so in prefetch(jobs, look.verify, threads=threads, ahead=threads):
            if not isinstance(found_so, MediaError):
                verified[row] = found_so[0]
                moved[pair] += [(row, segment) for segment in found_so[1:]]
            work.advance()
        elsewhere = _supported(moved, table, verified)
        table = replace_segments(table, verified | elsewhere, in_whole=elsewhere.keys())
        kept = table.column("score").to_numpy() >= rules.min_score
        write_table(path, table.filter(pa.array(kept)).sort_by(BEST_FIRST))
    return path


def _supported(
    moved: Mapping[tuple[str, str], Sequence[tuple[int, Segment]]], table: pa.Table, verified: Mapping[int, Segment]
) -> dict[int, Segment]:
    """Return the best moved segment of each pair, by its row, if it scores more than all others of the pair."""
    scores: defaultdict[tuple[str, str], float] = defaultdict(float)
    columns = [table.column(name).to_pylist() for name in ("query_id", "ref_id", "score")]
    for row, (query, reference, score) in enumerate(zip(*columns, strict=True)):
        scores[query, reference] = max(scores[query, reference], verified[row].score if row in verified else score)
    best = {pair: max(segments, key=lambda each: each[1].score) for pair, segments in moved.items() if segments}
    return dict(each for pair, each in best.items() if each[1].score > scores[pair])


Job = tuple[int, tuple[str, str], Segment, VideoRows, VideoRows]


def _jobs(
    table: pa.Table, rows: Sequence[int], shard: int, queries: Path, references: Path, noise: Path
) -> Iterator[Job]:
    """Yield each row with its pair, its segment, and the descriptors of both videos."""
    of_pair: defaultdict[tuple[str, str], list[tuple[int, Segment]]] = defaultdict(list)
    ids = [table.column(name).to_pylist() for name in PAIR]
    for row, segment in zip(rows, segments_of(table, rows), strict=True):
        of_pair[ids[0][row], ids[1][row]].append((row, segment))
    for batch in read_pairs(list(of_pair), shard, queries, references, noise):
        for pair, query, reference in batch:
            for row, segment in of_pair[pair]:
                yield row, pair, segment, query, reference


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the pictures of videos; `queries` and `references` give the path of each id, `thumbnails` read one."""

    queries: Mapping[str, str]
    references: Mapping[str, str]
    limits: DecodingLimits
    rules: ImageSettings
    calibration: Calibration
    thumbnails: Callable[[str], Thumbnails]

    @classmethod
    def at(cls, queries: Mapping[str, str], references: Mapping[str, str], limits: DecodingLimits) -> Look:
        """Return a look by the rules and the calibration that ship, which keeps thumbnails in memory."""
        thumbnails = lru_cache(VIDEOS_KEPT)(partial(read_thumbnails, limits=limits))
        return cls(queries, references, limits, ImageSettings(), load_calibration(), thumbnails)

    def verify(self, job: Job) -> list[Segment]:
        """Return a segment with its verified score and, if it is not supported, one to which it could be moved.

        Raises `MediaError` if a video cannot be read.
        """
        moments = self.compare(job)
        segment, moved = replace(job[2], score=verified_score(job[2].score, moments)), None
        if moments and segment.score < REFUTED:
            with suppress(MediaError):  # the score stands, even if more of a video cannot be read
                moved = self.move(job, moments)
        return [segment, moved] if moved and moved.score > segment.score else [segment]

    def move(self, job: Job, moments: Sequence[Moment]) -> Segment | None:
        """Return the segment in which both videos show the same pictures; its score is verified.

        `moments` are those of the segment that is to be moved. Returns None if their pictures are neither drawn nor
        alike, or if there is no such segment.
        """
        _, pair, segment, query, reference = job
        is_alike = np.median([moment.similarity for moment in moments]) >= ALIKE[1]
        if not is_alike and max(moment.ground for moment in moments) < SURELY_DRAWN:
            return None
        here, there = self.thumbnails(self.queries[pair[0]]), self.thumbnails(self.references[pair[1]])

        def look_at(found: Segment) -> list[Moment]:
            seen = _moments_of(found)
            return self._look(pair, seen, _similarities(query, reference, seen))

        same = align_same_pictures(here, there, self.calibration)
        if same:
            same = replace(same, score=max(same.score, verified_score(segment.score, look_at(same))))
            if same.score >= REFUTED:
                return same
        alike = align_alike_pictures(here, there)
        if alike and verified_score(0.0, moments := look_at(alike)) >= REFUTED:  # lookalikes need proof of their own
            return replace(alike, score=verified_score(segment.score, moments))
        return same

    def compare(self, job: Job) -> list[Moment]:
        """Compare the pictures of a segment; moments at which a video shows nothing are left out.

        Raises `MediaError` if a video cannot be read.
        """
        _, pair, segment, query, reference = job
        seen = _moments_of(segment)
        similarities = _similarities(query, reference, seen)
        least = ALIKE[0] if segment.score >= SURE else LEAST_ALIKE
        if np.median(similarities) < least:
            return []
        moments = self._look(pair, seen[:1], similarities[:1])
        if moments and is_photograph(moments[0]):
            return moments  # the others would change nothing
        return moments + self._look(pair, seen[1:], similarities[1:])

    def _look(
        self, pair: tuple[str, str], seen: Sequence[tuple[float, float]], similarities: Sequence[float]
    ) -> list[Moment]:
        here, there = zip(*seen, strict=True)
        shown = frames_at(self.queries[pair[0]], here, SIDE, limits=self.limits)
        original = frames_at(self.references[pair[1]], there, SIDE, limits=self.limits)
        moments = []
        for similarity, picture, reference_picture in zip(similarities, shown, original, strict=True):
            if picture is not None and reference_picture is not None:
                agreement = compare_pictures(picture, reference_picture, self.rules, self.calibration)
                is_plain = is_plain_beside(thumbnail(picture), thumbnail(reference_picture))
                moments.append(Moment(similarity, agreement, flat_ground(reference_picture), is_plain))
        return moments


def _moments_of(segment: Segment) -> list[tuple[float, float]]:
    """Return the seconds of the query and of the reference at which pictures of a segment are compared."""
    length = segment.query_end - segment.query_start
    seconds = [segment.query_start + share * length for share in MOMENTS]
    return [(second, segment.reference_at(second)) for second in seconds]


def _similarities(query: VideoRows, reference: VideoRows, seen: Sequence[tuple[float, float]]) -> list[float]:
    """Return the cosine of the frames at each two moments, of the most similar panes."""
    return [float((_frames_near(query, here) @ _frames_near(reference, there).T).max()) for here, there in seen]


def _frames_near(video: VideoRows, second: float) -> Floats:
    apart = np.abs(video.times.mean(axis=1) - second)
    return np.asarray(video.vectors[apart <= apart.min() + 1e-6], np.float32)
