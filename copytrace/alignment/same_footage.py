"""Footage that was cut out and encoded again: whether a query's moving pictures are those of a reference, one by one.

A second of footage says little to descriptors and aligners, and points agree at any two moments of one place. But
hardly any other second has the same movement, so that each picture is the same at its moment.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from copytrace.alignment.same_pictures import PLAIN, SIDE, Thumbnails
from copytrace.alignment.segments import Segment
from copytrace.features.thumbnails import thumbnail, thumbnail_contrast, thumbnail_differences
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import open_video
from copytrace.search.thumbnail_search import FARTHEST

PICTURES = 8  # of a query that are compared
LONGEST = 3.0  # seconds of a query that are compared, around the middle of a segment
SLACK = 1.0  # seconds by which the reference's moments may be mistaken
MOST_PER_SECOND = 60.0  # pictures of a reference
LEAST_MOVEMENT = 2.0  # times as much as from those of the reference, the first and the last picture differ
LATE = 0.6  # of a picture's time, by which the reference's nearest one may be early or late


def find_same_footage(query: str, reference: str, segment: Segment, limits: DecodingLimits) -> Segment | None:
    """Return `segment` with the moments at which the video `reference` shows what `query` does, at the same pace.

    Returns None if it does not, or if nothing moves there: a still is found elsewhere too. Raises `MediaError` if a
    video cannot be read.
    """
    if segment.reversed:
        return None
    middle = (segment.query_start + segment.query_end) / 2
    half = min(segment.query_end - segment.query_start, LONGEST) / 2
    here = _read_pictures(query, middle - half, middle + half, limits)
    chosen = np.unique(np.linspace(0, max(len(here.times) - 1, 0), PICTURES).round().astype(int))[: len(here.times)]
    here = Thumbnails(here.times[chosen], here.pixels[chosen])
    if len(here.times) < PICTURES or min(map(thumbnail_contrast, here.pixels)) < PLAIN:
        return None
    there_middle = segment.reference_at(middle)
    there = _read_pictures(reference, there_middle - half - SLACK, there_middle + half + SLACK, limits)
    ahead = _seconds_ahead(here, there)
    if ahead is None:
        return None
    start, end = (max(second + ahead, 0.0) for second in (segment.query_start, segment.query_end))
    return replace(segment, reference_start=start, reference_end=end)


def _read_pictures(path: str, start: float, end: float, limits: DecodingLimits) -> Thumbnails:
    video = open_video(path, limits=limits)
    per_second = min(video.info.frames_per_second, MOST_PER_SECOND)
    frames = list(video.frames(per_second=per_second, short_side=SIDE, start=start, end=end))
    times = np.array([(frame.start, frame.end) for frame in frames]).reshape(-1, 2)
    return Thumbnails(times, np.array([thumbnail(frame.pixels) for frame in frames]))


def _seconds_ahead(here: Thumbnails, there: Thumbnails) -> float | None:
    """Return how many seconds later the same pictures are shown `there`; None if they are not, or hardly move."""
    if not len(there.times):
        return None
    apart = thumbnail_differences(here.pixels, there.pixels)
    movement = float(thumbnail_differences(here.pixels[:1], here.pixels[-1:])[0, 0])
    most = min(FARTHEST, movement / LEAST_MOVEMENT)
    starts, length = there.times[:, 0], float(np.median(np.diff(there.times, axis=1)))
    best: tuple[float, float] | None = None
    for ahead in starts - here.times[0, 0]:
        wanted = here.times[:, 0] + ahead
        nearest = np.abs(starts - wanted[:, None]).argmin(axis=1)
        differences = apart[np.arange(len(wanted)), nearest]
        if (np.abs(starts[nearest] - wanted) <= LATE * length).all() and differences.max() < most:
            best = min(best or (np.inf, 0.0), (float(differences.mean()), float(ahead)))
    return best[1] if best else None
