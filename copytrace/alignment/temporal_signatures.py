"""Temporal signatures: how much a video moves, how bright, contrasted and colored it is, from moment to moment.

Frames a second apart tell where a copy was taken from to about half a second. Its temporal signature, eight values a
second, tells it to about a tenth: cuts and movements of a copy happen when those of the original do. It hardly depends
on colors, mirroring, cropping or pictures laid over, since it has no place within the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats
from copytrace.errors import MediaError
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import Frame, open_video
from copytrace.panes.find_panes import crop

Float64s = NDArray[np.float64]

PER_SECOND = 8  # frames that are compared
READ_SIDE = 96  # shorter side of the frames, in pixels
SIDE = 32  # of the pictures that are measured, in pixels
ADJACENT = 1.5 / PER_SECOND  # seconds from one frame to the next, at most; frames further apart leave a gap
LONGEST = 20.0  # seconds at either end of a segment that are read; of one up to twice as long, all are
SHIFTS = np.arange(-20, 21) / PER_SECOND  # seconds by which either end of a line may be off
FEWEST = 8  # values by which a line is found
LEAST_SHOWN = 0.7  # share of the values of a query for which the reference has one

# Successive values are not independent: this many tell as much as an independent one would. Of motion, and of each of
# brightness, contrast and two colors, which change slowly. Chosen on other videos than the figures in the docs are of.
DEPENDENT = np.array([12.0, 40.0, 40.0, 40.0, 40.0])
USUAL_SHIFT = 1.0  # seconds: standard deviation of both the mean and the difference of the shifts at the ends
SAME_PACE = 0.2  # seconds by which a copy at the pace of the original may be longer or shorter
SAME_PACE_ODDS = 5.0  # logarithm of the odds of that pace to another one
LEAST_CORRELATION, LEAST_GAIN = 0.3, 1.0  # of a line that replaces another one; the latter is a logarithm of odds
SURE = 0.9995  # correlation; one above tells no more
LINES_AT_ONCE = 128
# Lines that are chosen by chance have such odds. A part of what is above it is added to the logarithm of the score's
# odds: the values of a signature are not independent, nor is what descriptors saw of the same moments.
# Nothing is added if either video stands still for half of the time: slides of any two talks change every few seconds.
USUAL_ODDS, SUPPORT, MOST_SUPPORT = 12.0, 0.2, (-1.0, 3.0)
MOVING = 0.2  # motion; camera and things move by more, and encoding alone by less
EXACT = 0.25  # seconds by which lines that are found are off at most, mostly
SHORTEST = 0.25  # seconds of a segment


@dataclass(frozen=True, slots=True)
class TemporalSignature:
    """The signature of a video: `values` float64 [N, 5] at `times` float64 [N] in seconds, in order, with gaps or none.

    A row has log(1 + d), where d is the mean difference in luma of two frames an eighth of a second apart, then the
    mean of their luma, its standard deviation, and the means of Cr and Cb. `duration` is that of the whole video, in
    seconds.
    """

    times: Float64s
    values: Float64s
    duration: float

    @classmethod
    def of(cls, frames: Iterable[Frame], duration: float, box: Floats | None = None) -> TemporalSignature:
        """Measure frames at `PER_SECOND`, in order, within a box (shares of the frame) if one is given.

        `duration` is that of the video they are from. Motion is smoothed a little, since the frames of a copy fall
        elsewhere between the ticks.
        """
        times: list[float] = []
        values: list[Float64s] = []
        last: tuple[float, Float64s] | None = None
        for frame in frames:
            picture = frame.pixels if box is None else crop(frame.pixels, box)
            if picture is None:
                continue
            small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            colors = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float64)
            if last is not None and frame.start - last[0] < ADJACENT:
                times.append(frame.start)
                values.append(_measure(last[1], colors))
            last = frame.start, colors
        signature = np.array(values).reshape(-1, len(DEPENDENT))
        if values:
            signature[:, 0] = np.convolve(np.pad(signature[:, 0], 1, mode="edge"), (0.25, 0.5, 0.25), "valid")
        return cls(np.array(times), signature, duration)

    def at(self, times: Float64s) -> Float64s:
        """Return the values [M, K, 5] at `times` [M, K], interpolated; NaN beyond the ends and in gaps."""
        after = np.clip(np.searchsorted(self.times, times), 1, len(self.times) - 1)
        before = self.times[after - 1]
        length = self.times[after] - before
        share = np.where(length < ADJACENT, (times - before) / length, np.nan)
        share = np.where((share >= 0) & (share <= 1), share, np.nan)[..., None]
        return np.asarray(self.values[after - 1] * (1 - share) + self.values[after] * share)


def _measure(first: Float64s, second: Float64s) -> Float64s:
    """Return the row of a signature of two successive pictures [H, W, 3] in YCrCb."""
    motion = np.log1p(np.abs(second[..., 0] - first[..., 0]).mean())
    luma, cr, cb = ((first + second) / 2).mean(axis=(0, 1))
    contrast = (first[..., 0].std() + second[..., 0].std()) / 2
    return np.array([motion, luma, contrast, cr, cb])


def read_signature(
    path: str, windows: Sequence[tuple[float, float]], limits: DecodingLimits, box: Floats | None = None
) -> TemporalSignature:
    """Return the signature of a video in windows, (start, end) in seconds, as far as it can be read.

    Raises `MediaError` if it cannot be opened.
    """
    video = open_video(path, limits=limits)
    duration, parts = video.info.duration, []
    for start, end in windows:
        frames = video.frames(per_second=PER_SECOND, short_side=READ_SIDE, start=start, end=end)
        parts.append(TemporalSignature.of(_readable(frames), duration, box))
    times, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "values"))
    return TemporalSignature(times, values, duration)


def _readable(frames: Iterator[Frame]) -> Iterator[Frame]:
    with suppress(MediaError):
        yield from frames


def windows_of(segment: Segment) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return the windows of the query, and of the reference, in which their signatures are compared."""
    start, end = segment.query_start, segment.query_end
    shown = [(start, end)] if end - start <= 2 * LONGEST else [(start, start + LONGEST), (end - LONGEST, end)]
    original = [sorted(map(segment.reference_at, window)) for window in shown]
    margin = float(SHIFTS.max())
    wide = sorted((max(0.0, first - margin), last + margin) for first, last in original)
    overlap = len(wide) > 1 and wide[1][0] < wide[0][1]
    return shown, [(wide[0][0], wide[1][1])] if overlap else wide


def align_signatures(segment: Segment, query: TemporalSignature, reference: TemporalSignature) -> Segment:
    """Return a segment with the line along which both signatures agree best, and a score by how well they do.

    Of lines that differ by at most `SHIFTS` at either end, the one is taken that is most likely by the correlations
    of the signatures, and by how far it is off; copies mostly have the pace of the original. The ends in the query
    stay, but where the reference would not be long enough. A segment with too few values stays as it is, and its score
    if either video mostly stands still.
    """
    inside = (query.times > segment.query_start) & (query.times < segment.query_end)
    times, values = query.times[inside], query.values[inside]
    if len(times) < FEWEST or len(reference.times) < FEWEST:
        return segment
    ends = np.array([segment.reference_at(second) for second in (segment.query_start, segment.query_end)])
    first, last = (grid.ravel() for grid in np.meshgrid(ends[0] + SHIFTS, ends[1] + SHIFTS, indexing="ij"))
    odds, motion = _prior(segment, first - ends[0], last - ends[1]), np.full(len(first), np.nan)
    shares = (times - segment.query_start) / (segment.query_end - segment.query_start)
    for start in range(0, len(odds), LINES_AT_ONCE):
        lines = slice(start, start + LINES_AT_ONCE)
        shown = reference.at(first[lines, None] * (1 - shares) + last[lines, None] * shares)
        correlations = np.stack([_correlations(values[:, k], shown[..., k]) for k in range(len(DEPENDENT))], axis=1)
        told = -np.log(np.maximum(1 - np.maximum(correlations, 0.0) ** 2, 1 - SURE**2))
        odds[lines] += len(times) * (told / DEPENDENT).sum(axis=1)
        motion[lines] = correlations[:, 0]
    odds[np.isnan(odds)] = -np.inf
    best, given = int(odds.argmax()), len(odds) // 2
    if not np.isfinite(odds[best]):
        return segment
    if not motion[best] >= LEAST_CORRELATION or odds[best] < odds[given] + LEAST_GAIN:
        best = given
    moves = min(float(np.median(values[:, 0])), float(np.median(reference.values[:, 0]))) >= MOVING
    score = supported_score(segment.score, float(odds[best])) if moves else segment.score
    if best == given:
        return replace(segment, score=score)
    begin, end = sorted((float(first[best]), float(last[best])))
    return clip_segment(replace(segment, reference_start=begin, reference_end=end, score=score), reference.duration)


def supported_score(score: float, odds: float) -> float:
    """Return a score, 0 to 1, given the logarithm of the odds of a line by signatures: a part of it is added."""
    if not 0 < score < 1:
        return score
    added = float(np.clip(SUPPORT * (odds - USUAL_ODDS), *MOST_SUPPORT))
    return 1 / (1 + (1 / score - 1) * float(np.exp(-added)))


def clip_segment(segment: Segment, duration: float) -> Segment:
    """Return the part of a segment that a reference of `duration` seconds has.

    The query is cut too where its line leaves the reference by more than `EXACT`.
    """
    seconds = np.array([segment.query_start, segment.query_end], np.float64)
    shown = np.array([segment.reference_at(second) for second in seconds])
    beyond = shown - np.clip(shown, 0.0, duration)
    seconds -= np.where(np.abs(beyond) > EXACT, beyond / segment.speed * (-1.0 if segment.reversed else 1.0), 0.0)
    start, end = sorted(np.clip(shown, 0.0, duration).tolist())
    if min(end - start, seconds[1] - seconds[0]) < SHORTEST:
        return segment
    first, last = seconds.tolist()
    return replace(segment, query_start=first, query_end=last, reference_start=start, reference_end=end)


def _prior(segment: Segment, first: Float64s, last: Float64s) -> Float64s:
    """Return the logarithm of the prior odds [N] of lines shifted by `first` [N] and `last` [N] seconds at the ends."""
    turn = -1.0 if segment.reversed else 1.0
    length = segment.reference_end - segment.reference_start + turn * (last - first)
    same_pace = np.abs(length - (segment.query_end - segment.query_start)) < SAME_PACE
    off = np.square((first + last) / 2) + np.square(last - first)
    return np.where(length >= SHORTEST, SAME_PACE_ODDS * same_pace - off / (2 * USUAL_SHIFT**2), -np.inf)


def _correlations(values: Float64s, others: Float64s) -> Float64s:
    """Return the correlations [M] of values [N] with each row of `others` [M, N], where those are known, not NaN.

    They are NaN where too few are known.
    """
    known = ~np.isnan(others)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    here, there = np.where(known, values, 0.0), np.where(known, others, 0.0)
    here, there = (known * (each - each.sum(axis=1, keepdims=True) / count) for each in (here, there))
    spread = np.sqrt(np.square(here).sum(axis=1) * np.square(there).sum(axis=1))
    enough = known.mean(axis=1) >= LEAST_SHOWN
    return np.where(enough, (here * there).sum(axis=1) / np.maximum(spread, 1e-9), np.nan)
