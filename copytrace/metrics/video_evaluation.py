"""Video metrics of a file of predicted segments against a ground-truth file, as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from copytrace.errors import InputError
from copytrace.metrics.curves import PrecisionRecallCurve
from copytrace.metrics.evaluation import RELIABILITY, format_figure, kind_table
from copytrace.metrics.tables import read_ids, read_numbers, read_strings, read_table
from copytrace.metrics.videos import (
    Segments,
    VideoKindMetrics,
    VideoMetrics,
    evaluate_segments,
    evaluate_segments_by_kind,
    judge_segments,
    segment_curve,
)

TIME_COLUMNS = ("query_start", "query_end", "ref_start", "ref_end")
SEGMENT_COLUMNS = ("query_id", "ref_id", *TIME_COLUMNS)
KIND_COLUMNS = ("edits", "kind")  # the first that a table has is used; `edits` says more than `kind`

VIDEO_ALIASES = {"reference_id": "ref_id", "reference_start": "ref_start", "reference_end": "ref_end"}


@dataclass(frozen=True)
class VideoEvaluation:
    """Figures of one file of predicted segments against one ground truth.

    `queries` is the number of queries with a true segment; `of_other_queries` is the number of predictions for other
    queries, which are false. `by_kind` is empty if no kinds of edits are known. `curve` belongs to the segment AP.
    """

    ground_truth: str
    segments: str
    queries: int
    of_other_queries: int
    overall: VideoMetrics
    by_kind: tuple[VideoKindMetrics, ...]
    curve: PrecisionRecallCurve

    def to_json(self) -> dict[str, Any]:
        """Return the figures, without the curve, as plain values for `json.dumps`; `by_kind` has one entry per kind."""
        by_kind = {
            row.kind: {name: value for name, value in asdict(row).items() if name != "kind"} for row in self.by_kind
        }
        return {
            "ground_truth": self.ground_truth,
            "segments": self.segments,
            "queries": self.queries,
            "of_other_queries": self.of_other_queries,
            "overall": asdict(self.overall),
            "by_kind": by_kind,
        }

    def render(self) -> Group:
        """Return the figures as tables for a terminal: `rich.print(evaluation.render())`."""
        parts = [_overall_table(self)]
        if self.by_kind:
            parts.append(_kind_table(self.by_kind))
        return Group(*parts)


def evaluate_videos(ground_truth: Path, segments: Path, edits: Path | None = None) -> VideoEvaluation:
    """Return the figures of a file of predicted segments; see `read_true_segments` and `read_predicted_segments`.

    Kinds of edits are read from the table `edits` (`query_id`, and `edits` or `kind` with words separated by spaces),
    or else from the column `edits` or `kind` of the ground truth. Raises `InputError` where the readers or
    `copytrace.metrics.videos.judge_segments` do.
    """
    truth, kinds = read_true_segments(ground_truth)
    if edits is not None:
        kinds = read_kinds(edits)
    judged = judge_segments(truth, predictions := read_predicted_segments(segments))
    copying = set(truth.queries)
    return VideoEvaluation(
        ground_truth=str(ground_truth),
        segments=str(segments),
        queries=len(copying),
        of_other_queries=sum(query not in copying for query in predictions.queries),
        overall=evaluate_segments(judged),
        by_kind=evaluate_segments_by_kind(judged, kinds),
        curve=segment_curve(judged),
    )


def read_true_segments(path: Path) -> tuple[Segments, dict[str, str]]:
    """Read a CSV, tab-separated or Parquet table of true segments; return them and the kinds of edits by query, if any.

    Columns, in any order: `query_id,ref_id,query_start,query_end,ref_start,ref_end`, times in seconds, and optionally
    `edits` or `kind`. Names may begin with `reference_` instead of `ref_`; other columns are ignored. Raises
    `InputError` if the file is missing, unreadable or without these columns, if an id is empty, or if a time is not a
    number.
    """
    table = read_table(path, SEGMENT_COLUMNS, optional=KIND_COLUMNS, aliases=VIDEO_ALIASES)
    return _segments(path, table), _kinds(path, table)


def read_predicted_segments(path: Path) -> Segments:
    """Read a table of predicted segments: the columns of `read_true_segments`, and `score`; it may have no rows."""
    return _segments(path, read_table(path, (*SEGMENT_COLUMNS, "score"), aliases=VIDEO_ALIASES))


def read_kinds(path: Path) -> dict[str, str]:
    """Read a table with `query_id` and `edits` or `kind`; return the words of all rows by query.

    Raises `InputError` if the file is missing, unreadable or without these columns, or if a query_id is empty.
    """
    table = read_table(path, ("query_id",), optional=KIND_COLUMNS)
    if len(table.column_names) == 1:
        raise InputError(f"{path} has neither of the columns {' and '.join(map(repr, KIND_COLUMNS))}; add one of them")
    return _kinds(path, table)


def _segments(path: Path, table: pa.Table) -> Segments:
    times = [read_numbers(path, table, name, "give seconds") for name in TIME_COLUMNS]
    scores = None
    if "score" in table.column_names:
        scores = read_numbers(path, table, "score", "higher means more certain")
    queries, references = read_ids(path, table, "query_id"), read_ids(path, table, "ref_id")
    return Segments(queries, references, np.stack(times, axis=1), scores, source=str(path))


def _kinds(path: Path, table: pa.Table) -> dict[str, str]:
    named = [name for name in KIND_COLUMNS if name in table.column_names]
    kinds: dict[str, str] = {}
    if named:
        queries, words = read_ids(path, table, "query_id"), read_strings(path, table, named[0])
        for query, added in zip(queries, words, strict=True):
            kinds[query] = f"{kinds.get(query, '')} {added}".strip()
    return kinds


def _overall_table(evaluation: VideoEvaluation) -> Table:
    overall = evaluation.overall
    table = Table(title="All queries", title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    threshold = "" if overall.threshold_at_p90 is None else f" (score ≥ {overall.threshold_at_p90:g})"
    table.add_row("segment AP", format_figure(overall.segment_ap))
    table.add_row(f"recall at 90 % precision{threshold}", format_figure(overall.recall_at_p90, absent="not reached"))
    table.add_row("recall of all predictions", format_figure(overall.recall))
    table.add_row("micro-AP of pairs of videos", format_figure(overall.pair_ap))
    table.add_row("calibration error of pairs of videos", format_figure(overall.calibration_error))
    table.add_section()
    table.add_row("queries that copy something", f"{evaluation.queries:,}")
    table.add_row("true pairs", f"{overall.pairs:,}")
    table.add_row("true segments", f"{overall.segments:,}")
    table.add_row("predicted segments", f"{overall.predictions:,}")
    if evaluation.of_other_queries:
        table.add_row("… for other queries, counted as false", f"{evaluation.of_other_queries:,}")
    return table


def _kind_table(rows: tuple[VideoKindMetrics, ...]) -> Table:
    columns = ("queries", "true\nsegments", "segment\nAP", "recall", *RELIABILITY)
    table = kind_table("By kind of edit", columns, [row.kind for row in rows])
    for row in rows:
        counts = (f"{row.queries:,}", f"{row.segments:,}")
        figures = (format_figure(value, digits=3) for value in (row.segment_ap, row.recall))
        error = format_figure(row.calibration_error, digits=3)
        table.add_row(escape(row.kind), *counts, *figures, f"{row.sure:,}", f"{row.mistaken:,}", error)
    return table
