"""Alignment by temporal signatures: the line of a segment, how far it goes on, and how well signatures support it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.alignment.temporal_signatures import CHANNELS, PER_SECOND, Float64s, TemporalSignature
from copytrace.matching.ground import DRAWN

LONGEST = 20.0  # seconds at either end of a segment that are compared; of one up to twice as long, all are
SHIFTS = np.arange(-20, 21) / PER_SECOND  # seconds by which either end of a line may be off
BEYOND = 4.0  # seconds that are compared before and after a segment
FEWEST = 8  # values by which a line is found
LEAST_SHOWN = 0.7  # share of the values of a query for which the reference has one

# Successive values are not independent: this many tell as much as an independent one would. Of motion, and of each of
# brightness, contrast and two colors, which change slowly. Chosen on two sets of videos with edits.
DEPENDENT = np.array([12.0, 40.0, 40.0, 40.0, 40.0])
USUAL_SHIFT = 1.0  # seconds: standard deviation of both the mean and the difference of the shifts at the ends
SAME_PACE = 0.2  # seconds by which a copy at the pace of the original may be longer or shorter
SAME_PACE_ODDS = 5.0  # logarithm of the odds of that pace to another one
LEAST_CORRELATION, LEAST_GAIN = 0.3, 1.0  # of a line that replaces another one; the latter is a logarithm of odds
SURE = 0.9995  # correlation; one above tells no more
LINES_AT_ONCE = 128

# Lines that are chosen by chance have such odds. A part of what is above it is added to the logarithm of the score's
# odds: the values of a signature are not independent, nor is what descriptors saw of the same moments.
# Nothing is added if either video is drawn or stands still for half of the time, or if the reference moves steadily:
# slides of any two talks change every few seconds, and all credits roll alike.
USUAL_ODDS, SUPPORT, MOST_SUPPORT = 12.0, 0.2, (-1.0, 3.0)
MOVING = 0.2  # motion; camera and things move by more, and encoding alone by less
VARIED = 0.15  # standard deviation of motion; that of footage is 0.19 or more, and that of rolling text 0.11 or less

# A segment grows as far as it is likelier that the query shows the reference than something else.
FEWEST_TO_GROW = 16
TELLING = 0.5  # least correlation within the segment of a channel that tells
MOST_TOLD = (-3.0, 1.0)  # logarithm of the odds by one value of a channel
DEPENDENT_TO_GROW = 4.0
GROWN, LEAST_GROWTH = 6.0, 0.4  # logarithm of odds, and seconds

EXACT = 0.25  # seconds by which lines that are found are off at most, mostly
SHORTEST = 0.25  # seconds of a segment

Windows = list[tuple[float, float]]


def windows_of(segment: Segment) -> tuple[Windows, Windows]:
    """Return the windows of the query, and of the reference, in which signatures are compared: starts and ends in s."""
    start, end = segment.query_start - BEYOND, segment.query_end + BEYOND
    length = LONGEST + BEYOND
    shown = [(start, end)] if end - start <= 2 * length else [(start, start + length), (end - length, end)]
    original = [sorted(map(segment.reference_at, window)) for window in shown]
    margin = float(SHIFTS.max())
    wide = sorted((max(0.0, first - margin), last + margin) for first, last in original)
    overlap = len(wide) > 1 and wide[1][0] <= wide[0][1]
    return [(max(0.0, first), last) for first, last in shown], [(wide[0][0], wide[1][1])] if overlap else wide


def align_signatures(
    segment: Segment,
    query: TemporalSignature,
    reference: TemporalSignature,
    room: tuple[float, float] = (-np.inf, np.inf),
) -> Segment:
    """Return a segment with the line along which both signatures agree best, and a score by how well they do.

    Of lines that differ by at most `SHIFTS` at either end, the one is taken that is most likely by the correlations
    of the signatures, and by how far it is off; copies mostly have the pace of the original. The ends in the query
    stay, unless the copy goes on, within the `room` in seconds, or the reference is not long enough. A segment with too
    few values stays as it is, and its score unless both videos are footage.
    """
    inside = (query.times > segment.query_start) & (query.times < segment.query_end)
    if inside.sum() < FEWEST or len(reference.times) < FEWEST:
        return segment
    line, odds = _best_line(segment, query.times[inside], query.values[inside], reference)
    if not np.isfinite(odds):
        return segment
    is_footage = _is_footage(query, inside) and _is_footage(reference, np.full(len(reference.times), True))
    if not is_footage or reference.values[:, 0].std() < VARIED:
        return clip_segment(line, reference.duration)
    grown = grow_segment(line, query, reference, room)
    return clip_segment(replace(grown, score=supported_score(segment.score, odds)), reference.duration)


def supported_score(score: float, odds: float) -> float:
    """Return a score, 0 to 1, given the logarithm of the odds of a line by signatures: a part of it is added."""
    if not 0 < score < 1:
        return score
    added = float(np.clip(SUPPORT * (odds - USUAL_ODDS), *MOST_SUPPORT))
    return 1 / (1 + (1 / score - 1) * float(np.exp(-added)))


def grow_segment(
    segment: Segment, query: TemporalSignature, reference: TemporalSignature, room: tuple[float, float]
) -> Segment:
    """Return a segment with the time before and after it in which signatures go on as within it, along its line.

    It grows within the `room`, from one second of the query to another.
    """
    odds = _odds_of_showing(segment, query, reference)
    first, last = max(segment.query_start - BEYOND, room[0]), min(segment.query_end + BEYOND, room[1])
    after = np.flatnonzero((query.times >= segment.query_end) & (query.times <= last))
    before = np.flatnonzero((query.times <= segment.query_start) & (query.times >= first))[::-1]
    end = segment.query_end + _growth(np.abs(query.times[after] - segment.query_end), odds[after])
    start = segment.query_start - _growth(np.abs(query.times[before] - segment.query_start), odds[before])
    if end > segment.query_end and query.duration - end < 1.5 / PER_SECOND:
        end = query.duration
    if start < segment.query_start and start < 1.5 / PER_SECOND:
        start = 0.0
    first, last = sorted((segment.reference_at(start), segment.reference_at(end)))
    return replace(segment, query_start=start, query_end=end, reference_start=first, reference_end=last)


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


def _best_line(
    segment: Segment, times: Float64s, values: Float64s, reference: TemporalSignature
) -> tuple[Segment, float]:
    """Return the segment with the likeliest line, and the logarithm of its odds, for the values [N, 5] at `times` [N].

    The odds are not finite if the reference has too little to compare.
    """
    ends = np.array([segment.reference_at(second) for second in (segment.query_start, segment.query_end)])
    first, last = (grid.ravel() for grid in np.meshgrid(ends[0] + SHIFTS, ends[1] + SHIFTS, indexing="ij"))
    odds, motion = _prior(segment, first - ends[0], last - ends[1]), np.full(len(first), np.nan)
    shares = (times - segment.query_start) / (segment.query_end - segment.query_start)
    for start in range(0, len(odds), LINES_AT_ONCE):
        lines = slice(start, start + LINES_AT_ONCE)
        shown = reference.at(first[lines, None] * (1 - shares) + last[lines, None] * shares)
        correlations = np.stack([_correlations(values[:, k], shown[..., k]) for k in range(CHANNELS)], axis=1)
        told = -np.log(np.maximum(1 - np.maximum(correlations, 0.0) ** 2, 1 - SURE**2))
        odds[lines] += len(times) * (told / DEPENDENT).sum(axis=1)
        motion[lines] = correlations[:, 0]
    odds[np.isnan(odds)] = -np.inf
    best, given = int(odds.argmax()), len(odds) // 2
    if not motion[best] >= LEAST_CORRELATION or odds[best] < odds[given] + LEAST_GAIN:
        return segment, float(odds[given])
    begin, end = sorted((float(first[best]), float(last[best])))
    return replace(segment, reference_start=begin, reference_end=end), float(odds[best])


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


def _is_footage(signature: TemporalSignature, inside: NDArray[np.bool_]) -> bool:
    return float(np.median(signature.values[inside, 0])) >= MOVING and signature.ground <= DRAWN


def _odds_of_showing(segment: Segment, query: TemporalSignature, reference: TemporalSignature) -> Float64s:
    """Return the logarithm of the odds [N] that each value of the query shows the reference, along the line.

    A channel's values depend on those of the reference by a line, fitted within the segment; otherwise they are as
    anywhere in the query. If fewer than two channels tell, it is 0, and where the reference has nothing, negative.
    """
    original = reference.at(np.array([[segment.reference_at(float(second)) for second in query.times]]))[0]
    known = ~np.isnan(original[:, 0])
    inside = known & (query.times > segment.query_start) & (query.times < segment.query_end)
    odds, telling = np.zeros(len(known)), 0
    for here, there in zip(query.values.T, original.T, strict=True):
        spread, spread_there = here[inside].std(), there[inside].std()
        if inside.sum() < FEWEST_TO_GROW or min(spread, spread_there) < 1e-6:
            continue
        correlation = float(np.corrcoef(here[inside], there[inside])[0, 1])
        if correlation < TELLING:
            continue
        expected = here[inside].mean() + correlation * spread / spread_there * (there - there[inside].mean())
        error = spread * max(np.sqrt(1 - min(1.0, correlation) ** 2), 0.1)
        usual = max(here.std(), spread)
        told = np.square((here - here.mean()) / usual) / 2 + np.log(usual)
        told -= np.square((here - expected) / error) / 2 + np.log(error)
        odds += np.clip(np.where(known, told, MOST_TOLD[0]), *MOST_TOLD) / DEPENDENT_TO_GROW
        telling += 1
    return odds if telling > 1 else np.zeros(len(known))


def _growth(seconds: Float64s, odds: Float64s) -> float:
    """Return by how many of the `seconds` [N] from an end, in order, a segment grows, given the odds [N] at each."""
    if not len(odds):
        return 0.0
    total = np.cumsum(odds)
    furthest = int(total.argmax())
    return float(seconds[furthest]) if total[furthest] >= GROWN and seconds[furthest] >= LEAST_GROWTH else 0.0
