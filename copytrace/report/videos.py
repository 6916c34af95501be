"""The HTML page of video matches: one file that shows which seconds were copied from where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.videos import VideoSettings
from copytrace.errors import ConfigError
from copytrace.index.video_index import VideoIndex
from copytrace.media.failures import read_failures
from copytrace.panes.names import WHOLE
from copytrace.report.page import SIDES, Page, Selection, Side, score_text
from copytrace.report.similarity_picture import SHADES
from copytrace.report.time_axis import TimeAxis, assign_lanes, format_clock
from copytrace.report.video_matches import CondensedMatch, MatchedPairs, PaneSegment, VideoMatch, select_best
from copytrace.report.video_pictures import Film, PairPictures
from copytrace.run_folder import VideoRunFolder
from copytrace.search.cut_lists import describe_cut, read_cut
from copytrace.step import VERSION, Step, fingerprint_of
from copytrace.summary import count_pairs

PLAIN_SPEEDS = (0.97, 1.03)  # ends are right to a fraction of a second, so finer differences mean nothing
TRACK_HEIGHT, LANE_HEIGHT = 18, 7  # pixels, at least
MATRIX_SHAPES = (1.35, 2.4)  # least and largest width over height; beyond these, the axes differ in scale


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


@dataclass(frozen=True, slots=True)
class VideoPageLimits:
    """Limits of a page: pairs, segments of a pair with film strips, and pixels of a frame's longer side."""

    max_matches: int = 300
    max_strips: int = 6
    frame_side: int = 128

    def __post_init__(self) -> None:
        if min(self.max_matches, self.max_strips, self.frame_side) < 1:
            raise ConfigError(
                f"max_matches is {self.max_matches}, max_strips {self.max_strips}, frame_side {self.frame_side}: "
                "set all to 1 or more"
            )


def report_videos(queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings) -> Path:
    """Write `report.html`, unless the existing page shows the same segments, and return it."""
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    cut = read_cut(folder, query_index.shards)
    failures, threshold = len(read_failures(folder.failures)), settings.alignment.threshold
    record = folder.work / "report.json"
    made_from = [fingerprint_of(folder.work / "merge"), settings.report.model_dump(), threshold, failures, cut]
    step = Step.of("report", folder.report, made_from=made_from, record=record)
    if step.is_done():
        return folder.report
    matched = MatchedPairs.best(folder, settings.report.max_matches)
    with step.run(len(matched.segments), "pairs") as work:
        write_video_report(
            matched.read(query_index, references, folder, settings.alignment),
            folder.report,
            paths={"query": query_index.paths, "reference": reference_index.paths},
            summary={
                "queries": len(query_index.items),
                "references": len(reference_index.items),
                **count_pairs(folder, threshold),
                "failures": failures,
                "notice": describe_cut(cut),
                "version": VERSION,
            },
            threshold=threshold,
            limits=VideoPageLimits(max_matches=settings.report.max_matches),
        )
        work.advance(len(matched.segments))
    return folder.report


def write_video_report(
    matches: Iterable[VideoMatch],
    out: Path,
    *,
    paths: Mapping[Side, Mapping[str, str]],
    summary: Mapping[str, object],
    threshold: float | None,
    limits: VideoPageLimits = VideoPageLimits(),
) -> Path:
    """Write the page of `matches` to `out` and return `out`.

    The same inputs give the same bytes on the same machine and versions.

    `matches` is read once, and memory holds only the best `limits.max_matches`, which the page shows. `paths` gives the
    file of each id, by side; a file that can no longer be read is shown as a placeholder. Links to files are relative
    to the page, so a folder that holds both can be moved. `summary` is shown at the top; its `pairs`, `copies` and
    `queries_with_copies` are the totals if `matches` are only a part. Pairs that score `threshold` or more are marked
    as copies, and the others are folded away; None marks and folds nothing.
    """
    selection = _take_totals(select_best(matches, threshold, limits.max_matches), summary)
    pictures = PairPictures(selection.rows, paths, limits.max_strips, limits.frame_side, out)
    cards = [_card(pair, pictures, threshold) for pair in selection.rows]
    extra = {"shades": ", ".join(f"rgb{shade}" for shade in SHADES)}
    page = Page("video", selection, cards, pictures.base64_pictures, summary, "probability", threshold, 1.0, extra)
    return page.write(out)


def _take_totals(selection: Selection, summary: Mapping[str, object]) -> Selection:
    """Return the selection with the counts of the summary, which also covers pairs that are not among the matches."""

    def total(name: str, counted: int) -> int:
        return value if isinstance(value := summary.get(name), int) else counted

    return Selection(
        selection.rows,
        pairs=total("pairs", selection.pairs),
        copies=total("copies", selection.copies),
        copied_queries=total("queries_with_copies", selection.copied_queries),
    )


def _card(pair: CondensedMatch, pictures: PairPictures, threshold: float | None) -> _Card:
    links: dict[Side, str | None] = {side: pictures.link(side, pair) for side in SIDES}
    spans: dict[Side, list[tuple[float, float]]] = {
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
        copied=_length_text(_covered_seconds(spans["query"])),
        traits=_traits(rows),
        rows=rows,
        track_height=max([TRACK_HEIGHT, *(round(LANE_HEIGHT * 100 / bar.height) for bar in (*query, *reference))]),
        picture=pictures.matrix(pair),
        shape=round(min(max(pair.reference.length / pair.query.length, MATRIX_SHAPES[0]), MATRIX_SHAPES[1]), 3),
    )


def _stretches(spans: Sequence[tuple[float, float]], axis: TimeAxis, link: str | None) -> list[_Stretch]:
    """Return the bars of a timeline; bars that overlap, as panes of one query do, share its height."""
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
        pane="" if found.pane == WHOLE else found.pane,
        score_text=score_text(segment.score, "probability"),
        film=film,
    )


def _traits(rows: Sequence[_Row]) -> list[str]:
    """Return the traits of a pair by which the page filters, in the template's words."""
    traits = {
        "reversed": any(row.reversed for row in rows),
        "speed": any(not row.is_plain_speed for row in rows),
        "pane": any(row.pane for row in rows),
        "several": len(rows) > 1,
    }
    return [name for name, has in traits.items() if has]


def _covered_seconds(spans: Sequence[tuple[float, float]]) -> float:
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
