"""Exact ends of segments: where a query begins and ceases to show a reference, between the frames of the indexes.

An index describes a frame each second, so the ends of aligned segments are off by up to a second. Around each of them,
more frames of the query are described, and compared with the frames of the reference near by. Most copies begin and end
with a cut, where the similarity changes from one frame to the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.alignment.align import BEST_FIRST, SEGMENT_SCHEMA, VideoRows, read_pairs
from copytrace.alignment.pane_boxes import PaneBoxes
from copytrace.alignment.segment_tables import (
    LEAST_SCORE,
    best_of_each_query,
    replace_segments,
    room_between,
    segments_of,
)
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.checked_files import read_checked
from copytrace.errors import MediaError
from copytrace.features.descriptors import Descriptor, model_label
from copytrace.features.repeated_pictures import RepeatedPictures
from copytrace.index.given_up import limits_of
from copytrace.index.video_index import VideoIndex, load_video_models
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import frames_at
from copytrace.media.prefetch import prefetch
from copytrace.panes.find_panes import crop
from copytrace.run_folder import VideoRunFolder
from copytrace.runtime import usable_cores
from copytrace.step import Step, fingerprint_of
from copytrace.tables import write_table

PER_SECOND = 8  # frames of the query that are described
REACH = 1.5  # seconds before and after an end in which it is looked for
NEAR = 1.6  # seconds around the expected moment of the reference whose frames are compared
USUAL = 25  # percentile of the cosines with all frames of the reference: that of other frames, mostly
# Where other frames are more alike, as pages and rolling text are, likeness does not tell moments, but only whether a
# frame is of another video. At 101 ends of copied footage, this was below 0.2, and at 124 of drawn videos above 0.5.
MOST_USUAL, TO_ANOTHER_VIDEO = 0.35, 0.5  # cosine, and change of likeness
SIDE = 480  # longest side of the frames, in pixels
LEAST_CHANGE = 0.15  # of likeness, between the frames before and after an end
OF_NOISE = 2.0  # least ratio of that change to the standard deviation of the frames on either side
# A copy goes on while the frames beyond its end have this share of the likeness within, which must be this at least.
GOES_ON, ALIKE = 0.8, 0.3
FEWEST_FRAMES = 4
SHORTEST = 0.25  # seconds of a segment
RULES_VERSION = 3

Pictures = dict[tuple[int, int], NDArray[np.uint8]]
"""Pictures as the descriptor takes them, by the number of their box, -1 for the whole frame, and of their tick."""


def find_exact_ends(
    shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> Path:
    """Write the segments of a shard of queries with exact ends, and return the file.

    Of each query, these are the best `alignment.verified_segments` with a score of `LEAST_SCORE` or more. Segments of
    queries that cannot be read, or that another descriptor described, keep their ends.
    """
    found, path = folder.verified_segments(shard), folder.exact_segments(shard)
    rules, index = settings.alignment, VideoIndex.open(queries)
    model = [settings.descriptor.model, settings.descriptor.also, settings.descriptor.pca]
    made_from = [RULES_VERSION, shard, fingerprint_of(found), rules.exact_ends and rules.verified_segments, model]
    step = Step.of("find exact ends", path, made_from=made_from)
    if step.is_done():
        return path
    table = read_checked(found, schema=SEGMENT_SCHEMA)
    rows = best_of_each_query(table, rules.verified_segments, LEAST_SCORE) if rules.exact_ends else []
    descriptor = load_video_models(settings.descriptor, settings.panes.detector)[0] if rows else None
    if descriptor and model_label(descriptor) != index.provenance["descriptor"]:
        rows = []  # such as of imported descriptors
    with step.run(len(rows), "segments") as work:
        exact: dict[int, Segment] = {}
        if descriptor and rows:
            ends = _DescribedEnds.of(table, rows, index, shard, descriptor, settings)
            of_pair: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
            for row in rows:
                of_pair[table["query_id"][row].as_py(), table["ref_id"][row].as_py()].append(row)
            for batch in read_pairs(list(of_pair), shard, queries, references, folder.noise(shard)):
                for pair, _, reference in batch:
                    of_both = [ends.segments[row] for row in of_pair[pair]]
                    exact |= {row: ends.find(row, reference, of_both) for row in of_pair[pair] if row in ends.vectors}
                    work.advance(len(of_pair[pair]))
        write_table(path, replace_segments(table, exact).sort_by(BEST_FIRST))
    return path


def find_end(
    times: NDArray[np.float64], similarities: Floats, end: float, *, is_start: bool, is_telling: bool = True
) -> float:
    """Return the exact end near a rough one, or that itself if nothing tells.

    `times` float64 [N, 2] are the start and end of successive frames in seconds, `similarities` float32 [N] theirs to
    the reference. A segment `is_start` begins at the end that is looked for, or ends there. If likeness tells its
    moments (`is_telling`), it grows where the frames beyond its end are as alike as those within; otherwise, only a
    change to frames of another video is an end.
    """
    if len(times) < FEWEST_FRAMES:
        return end
    if not is_start:
        return -find_end(-times[::-1, ::-1], similarities[::-1], -end, is_start=True, is_telling=is_telling)
    first, change, noise = _largest_step(np.asarray(similarities, np.float64))
    if change >= max(LEAST_CHANGE if is_telling else TO_ANOTHER_VIDEO, OF_NOISE * noise):
        return float(times[first, 0])
    inside = times.mean(axis=1) > end
    if not is_telling or not 1 < inside.sum() < len(times) - 1:
        return end
    level = float(similarities[inside].mean())
    goes_on = level >= ALIKE and similarities[~inside].min() >= GOES_ON * level
    return float(times[0, 0]) if goes_on else end


def _largest_step(values: NDArray[np.float64]) -> tuple[int, float, float]:
    """Return where two levels fit values [N] best, of which the second is higher: its first index.

    Then follow how much higher it is, and the standard deviation of the values from their levels; the former is 0 if
    no second level is higher.
    """
    best = 0, 0.0, float(values.std())
    for first in range(1, len(values)):
        before, after = values[:first], values[first:]
        change = float(after.mean() - before.mean())
        noise = float(np.sqrt((before.var() * len(before) + after.var() * len(after)) / len(values)))
        if change > 0 and noise < best[2]:
            best = first, change, noise
    return best


@dataclass(frozen=True, slots=True)
class _Window:
    """The frames around an end of a segment: their ticks, eighths of a second, and the box of each; -1: no box."""

    end: float
    ticks: range
    boxes: tuple[int, ...]

    @property
    def keys(self) -> Iterator[tuple[int, int]]:
        return zip(self.boxes, self.ticks, strict=True)


@dataclass(frozen=True, slots=True)
class _DescribedEnds:
    """The descriptors of frames around the ends of segments, which are given by their rows in a table.

    `vectors` has those of a row's query by box and tick; rows whose query cannot be read are missing.
    """

    segments: Mapping[int, Segment]
    windows: Mapping[int, tuple[_Window, _Window]]
    vectors: Mapping[int, Mapping[tuple[int, int], Floats]]
    durations: Mapping[int, float]

    @classmethod
    def of(
        cls,
        table: pa.Table,
        rows: Sequence[int],
        index: VideoIndex,
        shard: int,
        descriptor: Descriptor,
        settings: VideoSettings,
    ) -> _DescribedEnds:
        """Describe the ends of the segments in some rows of a table, each frame of a query once."""
        segments = dict(zip(rows, segments_of(table, rows), strict=True))
        ids, panes = table.column("query_id").to_pylist(), table.column("pane").to_pylist()
        boxes, facts = PaneBoxes.of(index.pane_boxes(shard)), index.shard_facts(shard)
        windows = {row: _windows(boxes, ids[row], panes[row], segments[row]) for row in rows}
        by_query: defaultdict[str, list[int]] = defaultdict(list)
        for row in rows:
            by_query[ids[row]].append(row)

        def load(query: str) -> Pictures:
            wanted = {key for row in by_query[query] for window in windows[row] for key in window.keys}
            return _cut(index.paths[query], boxes, wanted, descriptor, limits_of(settings.media))

        vectors: dict[int, Mapping[tuple[int, int], Floats]] = {}
        threads, size = settings.media.threads or usable_cores(), settings.descriptor.batch_size
        for query, pictures in prefetch(by_query, load, threads=threads, ahead=threads):
            if isinstance(pictures, MediaError) or not pictures:
                continue
            described = RepeatedPictures(descriptor.describe, size).describe(np.stack(list(pictures.values())))
            of_query = dict(zip(pictures, described, strict=True))
            vectors |= dict.fromkeys(by_query[query], of_query)
        return cls(segments, windows, vectors, {row: facts[ids[row]].duration for row in rows})

    def find(self, row: int, reference: VideoRows, of_both: Sequence[Segment]) -> Segment:
        """Return the segment of a row with exact ends; the reference's follow from those of the query.

        It does not grow into the other segments `of_both` videos, such as those of a loop.
        """
        segment, duration = self.segments[row], self.durations[row]
        ends = []
        for window, is_start in zip(self.windows[row], (True, False), strict=True):
            seen = [(tick, self.vectors[row].get((box, tick))) for box, tick in window.keys]
            there = [(tick, vector) for tick, vector in seen if vector is not None and tick < duration * PER_SECOND]
            if not there:  # the video cannot be read here, or is shorter than it says
                ends.append(window.end)
                continue
            times = np.array([[tick, tick + 1] for tick, _ in there], np.float64) / PER_SECOND
            vectors = np.array([vector for _, vector in there], np.float32)
            seconds = [segment.reference_at(float(second)) for second in times.mean(axis=1)]
            likeness, is_telling = _likeness(vectors, reference, np.array(seconds))
            ends.append(find_end(times, likeness, window.end, is_start=is_start, is_telling=is_telling))
        start, end = max(0.0, ends[0]), ends[1] if duration - ends[1] > 1.5 / PER_SECOND else duration
        first_free, last_free = room_between(of_both, segment)
        start, end = max(start, first_free), min(end, last_free)
        shown = sorted(segment.reference_at(second) for second in (start, end))
        first, last = max(0.0, shown[0]), min(shown[1], float(reference.times[:, 1].max()))
        if min(end - start, last - first) < SHORTEST:
            return segment
        return replace(segment, query_start=start, query_end=end, reference_start=first, reference_end=last)


def _likeness(vectors: Floats, reference: VideoRows, seconds: NDArray[np.float64]) -> tuple[Floats, bool]:
    """Return how alike frames [N, D] are to those of the reference near the expected seconds [N]: float32 [N].

    It is 1 for equal frames, and 0 for those that are no more alike than the reference's other frames, `USUAL`. Also
    returned is whether that tells its moments: not if its other frames are too alike, `MOST_USUAL`.
    """
    cosines = vectors @ reference.vectors.T
    usual = float(np.percentile(cosines, USUAL))
    near = np.abs(reference.times.mean(axis=1)[None] - seconds[:, None]) <= NEAR
    best = np.where(near, cosines, -1.0).max(axis=1)
    level = min(usual, MOST_USUAL)
    likeness = np.maximum((best - level) / (1.0 - level), 0.0)
    return np.asarray(likeness, np.float32), usual <= MOST_USUAL


def _windows(boxes: PaneBoxes, query: str, pane: str, segment: Segment) -> tuple[_Window, _Window]:
    """Return the windows around the start and the end; the box is where the pane is in the segment."""

    def window(end: float) -> _Window:
        first, last = (round((end + side * REACH) * PER_SECOND) for side in (-1, 1))
        ticks = range(max(0, first), max(0, last))
        seconds = np.clip((np.array(ticks) + 0.5) / PER_SECOND, segment.query_start, segment.query_end)
        rows = boxes.rows_at(query, pane, seconds)
        return _Window(end, ticks, (-1,) * len(ticks) if rows is None else tuple(rows.tolist()))

    return window(segment.query_start), window(segment.query_end)


def _cut(
    path: str, boxes: PaneBoxes, wanted: set[tuple[int, int]], descriptor: Descriptor, limits: DecodingLimits
) -> Pictures:
    """Return the wanted pictures of a video, as far as it shows them. Raises `MediaError` if it cannot be read."""
    ticks = sorted({tick for _, tick in wanted})
    frames = dict(
        zip(ticks, frames_at(path, [(tick + 0.5) / PER_SECOND for tick in ticks], SIDE, limits=limits), strict=True)
    )
    pictures: Pictures = {}
    for box, tick in sorted(wanted):
        frame = frames[tick]
        picture = frame if frame is None or box < 0 else crop(frame, boxes.boxes[box])
        if picture is not None:
            pictures[box, tick] = descriptor.resize(picture)
    return pictures
