"""Image metrics of a predictions file against a ground-truth file, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from copytrace.metrics.images import (
    SURE,
    GroundTruth,
    ImageMetrics,
    KindMetrics,
    Predictions,
    evaluate,
    evaluate_by_kind,
    judge,
)
from copytrace.metrics.tables import read_ids, read_numbers, read_strings, read_table

PAIR_COLUMNS = ("query_id", "reference_id")
PREDICTION_COLUMNS = (*PAIR_COLUMNS, "score")
RELIABILITY = (f"found\nat {SURE}", f"wrong\nat {SURE}", "calib.\nerror")
LONGEST_KIND = 18  # characters of a name that are always shown


@dataclass(frozen=True)
class Evaluation:
    """Figures of one predictions file against one ground truth.

    `by_kind` is empty if the ground truth has no `kind` column. `unknown` is the number of predictions for queries that
    the ground truth lacks; they count as false, as in the official script.
    """

    ground_truth: str
    predictions: str
    queries: int
    unknown: int
    overall: ImageMetrics
    by_kind: tuple[KindMetrics, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values for `json.dumps`; `by_kind` has one entry per kind."""
        by_kind = {
            row.kind: {name: value for name, value in asdict(row).items() if name != "kind"} for row in self.by_kind
        }
        return {**asdict(self), "by_kind": by_kind}

    def render(self) -> Group:
        """Return the figures as tables for a terminal: `rich.print(evaluation.render())`."""
        parts = [_overall_table(self)]
        if self.by_kind:
            parts.append(_kind_table(self.by_kind))
        return Group(*parts)


def evaluate_images(ground_truth: Path, predictions: Path) -> Evaluation:
    """Return the image figures of a predictions file; see `read_ground_truth` and `read_predictions`.

    Raises `InputError` where these functions or `copytrace.metrics.images.judge` do.
    """
    return evaluate_predictions(read_ground_truth(ground_truth), read_predictions(predictions))


def evaluate_predictions(truth: GroundTruth, predictions: Predictions) -> Evaluation:
    """Return the image figures of predictions. Raises `InputError` where `copytrace.metrics.images.judge` does."""
    judged = judge(truth, predictions)
    overall = evaluate(judged)
    return Evaluation(
        ground_truth=truth.source,
        predictions=predictions.source,
        queries=len(judged.kind_of_query),
        unknown=int(np.sum(~judged.known)),
        overall=overall,
        by_kind=evaluate_by_kind(judged, overall.threshold_at_p90),
    )


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a CSV, tab-separated or Parquet table with `query_id,reference_id[,kind,…]`; other columns are ignored.

    An empty reference_id means that the query copies nothing; a query with several references has a row for each. A
    text file without a header has exactly the first two columns. Raises `InputError` if the file is missing, unreadable
    or without these columns, or if a query_id is empty.
    """
    table = read_table(path, PAIR_COLUMNS, optional=("kind",))
    queries = read_ids(path, table, "query_id")
    kinds = read_strings(path, table, "kind") if "kind" in table.column_names else None
    return GroundTruth(queries, read_strings(path, table, "reference_id"), kinds, source=str(path))


def read_predictions(path: Path) -> Predictions:
    """Read a CSV, tab-separated or Parquet table with `query_id,reference_id,score`; other columns are ignored.

    A text file without a header has exactly these three columns. Raises `InputError` if the file is missing, unreadable
    or without these columns, if an id is empty, or if a score is not a number.
    """
    table = read_table(path, PREDICTION_COLUMNS)
    queries, references = read_ids(path, table, "query_id"), read_ids(path, table, "reference_id")
    return Predictions(
        queries, references, read_numbers(path, table, "score", "higher means more alike"), source=str(path)
    )


def _overall_table(evaluation: Evaluation) -> Table:
    overall = evaluation.overall
    table = Table(title="All queries", title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    threshold = "" if overall.threshold_at_p90 is None else f" (score ≥ {overall.threshold_at_p90:g})"
    table.add_row("micro-AP", format_figure(overall.micro_ap))
    table.add_row(f"recall at 90 % precision{threshold}", format_figure(overall.recall_at_p90, absent="not reached"))
    table.add_row("recall at rank 1", format_figure(overall.rank1))
    table.add_row("recall at rank 10", format_figure(overall.rank10))
    table.add_row("calibration error", format_figure(overall.calibration_error))
    table.add_section()
    table.add_row("queries", f"{evaluation.queries:,}")
    table.add_row("true pairs", f"{overall.pairs:,}")
    table.add_row("predictions", f"{overall.predictions:,}")
    if evaluation.unknown:
        table.add_row("… for queries not in the ground truth, counted as false", f"{evaluation.unknown:,}")
    return table


def _kind_table(rows: Sequence[KindMetrics]) -> Table:
    columns = ("queries", "true\npairs", "top-1", "found\nat P90", "micro-AP", *RELIABILITY)
    table = kind_table("By kind", columns, [row.kind for row in rows])
    for row in rows:
        counts = (f"{row.queries:,}", f"{row.pairs:,}")
        figures = (format_figure(value, digits=3) for value in (row.top1, row.found, row.micro_ap))
        error = format_figure(row.calibration_error, digits=3)
        table.add_row(escape(row.kind), *counts, *figures, f"{row.sure:,}", f"{row.mistaken:,}", error)
    return table


def kind_table(title: str, columns: Sequence[str], kinds: Sequence[str]) -> Table:
    """Return a table without rows, narrow enough for 80 characters, in whose first column the kinds are not cut off."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("kind", min_width=min(LONGEST_KIND, max(map(len, kinds))))
    for name in columns:
        table.add_column(name, justify="right")
    return table


def format_figure(value: float | None, absent: str = "–", *, digits: int = 5) -> str:
    """Return a figure as the tables print it, with some digits after the point, or `absent` for None."""
    return absent if value is None else f"{value:.{digits}f}"
