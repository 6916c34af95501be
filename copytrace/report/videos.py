"""The HTML page of video matches: what was copied from where, second by second, in one file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from copytrace.errors import ConfigError
from copytrace.progress import Progress
from copytrace.report.page import Selection, score_text, write_page
from copytrace.report.similarity_picture import SHADES
from copytrace.report.time_axis import TimeAxis, assign_lanes, format_clock
from copytrace.report.video_matches import ROLES, CondensedMatch, PaneSegment, Role, VideoMatch, select_best
from copytrace.report.video_pictures import Film, PairPictures

__all__ = ["PaneSegment", "VideoMatch", "write_video_report"]

PLAIN_SPEEDS = (0.97, 1.03)  # ends that are right to a fraction of a second tell no speed finer than this
TRACK_HEIGHT, LANE_HEIGHT = 18, 7  # pixels, at least
MATRIX_SHAPES = (1.35, 2.4)  # least and largest width over height: beyond, the axes are no longer of one scale


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Seconds of one video, as the template shows them; places are percentages of its timeline."""

    start: str
    end: str
    link: str | None
    left: float
    right: float
    width: float
    top: float
    height: float


@dataclass(frozen=True, slots=True)
class _Row:
    """One segment, as the template shows it."""

    query: _Stretch
    reference: _Stretch
    reversed: bool
    speed: str
    is_plain_speed: bool
    pane: str
    score_text: str
    film: Film | None


@dataclass(frozen=True, slots=True)
class _Card:
    """One pair, as the template shows it."""

    pair: CondensedMatch
    query_link: str | None
    reference_link: str | None
    score_text: str
    bar: float
    is_copy: bool
    copied: str
    traits: list[str]
    rows: list[_Row]
    track_height: int
    picture: int
    shape: float


def write_video_report(
    matches: Iterable[VideoMatch],
    out: Path,
    *,
    query_paths: Mapping[str, str],
    reference_paths: Mapping[str, str],
    summary: Mapping[str, object],
    threshold: float | None,
    max_matches: int = 300,
    max_strips: int = 6,
    frame_side: int = 128,
    progress: Progress | None = None,
) -> Path:
    """Write the page of `matches` to `out` and return `out`.

    The same inputs give the same bytes on the same machine and versions.

    `matches` is read once, and no more than `max_matches` of them are held, the best, which the page shows.
    `query_paths` and `reference_paths` give the file of each id; a file that cannot be read any more is shown as a
    placeholder. Links to files are relative to the page, so that a folder with both can be moved. `summary` is shown
    at the top; its `pairs`, `copies` and `queries_with_copies` are the totals where `matches` are not all there are.
    Pairs that score `threshold` or more are marked as copies, the others go under a fold; None draws no line. The
    best `max_strips` segments of a pair have film strips, of pictures of at most `frame_side` pixels.

    Raises ConfigError if an option is out of range.
    """
    if min(max_matches, max_strips, frame_side) < 1:
        raise ConfigError(
            f"max_matches is {max_matches}, max_strips {max_strips}, frame_side {frame_side}: set all to 1 or more"
        )
    selection = _with_totals(select_best(matches, threshold, max_matches), summary)
    paths: dict[Role, Mapping[str, str]] = {"query": query_paths, "reference": reference_paths}
    pictures = PairPictures(selection.rows, paths, max_strips, frame_side, out, progress)
    cards = [_card(pair, pictures, threshold) for pair in selection.rows]
    return write_page(
        "video",
        out,
        selection=selection,
        cards=cards,
        pictures=pictures.embedded,
        summary=summary,
        kind="probability",
        top_score=1.0,
        threshold=threshold,
        shades=", ".join(f"rgb{shade}" for shade in SHADES),
    )


def _with_totals(selection: Selection, summary: Mapping[str, object]) -> Selection:
    """Return the selection with the counts of the summary, which knows the pairs that were never made a match."""

    def total(name: str, counted: int) -> int:
        return value if isinstance(value := summary.get(name), int) else counted

    return Selection(
        selection.rows,
        pairs=total("pairs", selection.pairs),
        copies=total("copies", selection.copies),
        copied_queries=total("queries_with_copies", selection.copied_queries),
    )


def _card(pair: CondensedMatch, pictures: PairPictures, threshold: float | None) -> _Card:
    links: dict[Role, str | None] = {role: pictures.link(role, pair) for role in ROLES}
    spans: dict[Role, list[tuple[float, float]]] = {
        "query": [(found.segment.query_start, found.segment.query_end) for found in pair.segments],
        "reference": [(found.segment.reference_start, found.segment.reference_end) for found in pair.segments],
    }
    query = _stretches(spans["query"], pair.query, links["query"])
    reference = _stretches(spans["reference"], pair.reference, links["reference"])
    rows = [
        _row(found, query[index], reference[index], pictures.film(pair, index))
        for index, found in enumerate(pair.segments)
    ]
    return _Card(
        pair=pair,
        query_link=links["query"],
        reference_link=links["reference"],
        score_text=score_text(pair.score, "probability"),
        bar=round(100 * min(max(pair.score, 0.0), 1.0), 1),
        is_copy=threshold is not None and pair.score >= threshold,
        copied=_length_text(_covered(spans["query"])),
        traits=_traits(rows),
        rows=rows,
        track_height=max([TRACK_HEIGHT, *(round(LANE_HEIGHT * 100 / bar.height) for bar in (*query, *reference))]),
        picture=pictures.matrix(pair),
        shape=round(min(max(pair.reference.length / pair.query.length, MATRIX_SHAPES[0]), MATRIX_SHAPES[1]), 3),
    )


def _stretches(spans: Sequence[tuple[float, float]], axis: TimeAxis, link: str | None) -> list[_Stretch]:
    """Return the bars of a timeline; where several overlap, as panes of one query do, they share its height."""
    rows = assign_lanes(spans)
    height = 100 / (max(rows, default=0) + 1)
    return [
        _Stretch(
            start=format_clock(start),
            end=format_clock(end),
            link=None if link is None else f"{link}#t={start:.3f},{end:.3f}",
            left=axis.place(start),
            right=axis.place(end),
            width=round(axis.place(end) - axis.place(start), 2),
            top=round(lane * height, 2),
            height=round(height, 2),
        )
        for (start, end), lane in zip(spans, rows, strict=True)
    ]


def _row(found: PaneSegment, query: _Stretch, reference: _Stretch, film: Film | None) -> _Row:
    segment = found.segment
    return _Row(
        query=query,
        reference=reference,
        reversed=segment.reversed,
        speed=f"×{segment.speed:.2f}",
        is_plain_speed=PLAIN_SPEEDS[0] <= segment.speed <= PLAIN_SPEEDS[1],
        pane="" if found.pane == "whole" else found.pane,
        score_text=score_text(segment.score, "probability"),
        film=film,
    )


def _traits(rows: Sequence[_Row]) -> list[str]:
    """Return what may be asked of a pair, in the words of the template's filter."""
    traits = {
        "reversed": any(row.reversed for row in rows),
        "speed": any(not row.is_plain_speed for row in rows),
        "pane": any(row.pane for row in rows),
        "several": len(rows) > 1,
    }
    return [name for name, has in traits.items() if has]


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds that lie in at least one span."""
    seconds, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        seconds += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return seconds


def _length_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{format_clock(seconds, decimals=0)} {'min' if seconds < 3600 else 'h'}"
