"""Read a ground truth and predictions from files, and put the image figures together for a person or a program."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv as pa_csv
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from copytrace.errors import InputError
from copytrace.metrics.images import (
    GroundTruth,
    ImageMetrics,
    KindMetrics,
    Predictions,
    evaluate,
    evaluate_by_kind,
    judge,
)

PAIR_COLUMNS = ("query_id", "reference_id")
PREDICTION_COLUMNS = (*PAIR_COLUMNS, "score")

# A first line with one of these words is a header, perhaps of another tool; any other first line is already data.
_HEADER_WORDS = {*PREDICTION_COLUMNS, "kind", "query", "reference", "ref_id", "ref", "query_image_id", "db_image_id"}


@dataclass(frozen=True)
class Evaluation:
    """The figures of one predictions file against one ground truth.

    `by_kind` is empty where the ground truth has no `kind` column. `unknown` is the number of predictions for queries
    that the ground truth lacks: they count as false, as in the official script.
    """

    ground_truth: str
    predictions: str
    queries: int
    unknown: int
    overall: ImageMetrics
    by_kind: tuple[KindMetrics, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`: `overall` by figure, `by_kind` by kind and figure."""
        by_kind = {
            row.kind: {name: value for name, value in asdict(row).items() if name != "kind"} for row in self.by_kind
        }
        return {**asdict(self), "by_kind": by_kind}

    def render(self) -> Group:
        """Return tables for a terminal: `rich.print(evaluation.render())`."""
        parts = [_overall_table(self)]
        if self.by_kind:
            parts.append(_kind_table(self.by_kind))
        return Group(*parts)


def evaluate_images(ground_truth: Path, predictions: Path) -> Evaluation:
    """Return the image figures of a predictions file, see `read_ground_truth` and `read_predictions`.

    Raises InputError for what they and `copytrace.metrics.images.judge` refuse.
    """
    truth = read_ground_truth(ground_truth)
    judged = judge(truth, read_predictions(predictions))
    overall = evaluate(judged)
    return Evaluation(
        ground_truth=str(ground_truth),
        predictions=str(predictions),
        queries=len(judged.kind_of_query),
        unknown=int(np.sum(~judged.known)),
        overall=overall,
        by_kind=evaluate_by_kind(judged, overall.threshold_at_p90),
    )


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a CSV, tab-separated or Parquet table with `query_id,reference_id[,kind,…]`; other columns are ignored.

    An empty reference_id means that the query copies nothing; a query with several references has a row for each. A
    text file without a header has exactly the first two columns. Raises InputError for a file that is missing, not
    readable, or without these columns, and for an empty query_id.
    """
    table = _read_table(path, PAIR_COLUMNS, optional=("kind",))
    queries = _ids(path, table, "query_id")
    kinds = _strings(path, table, "kind") if "kind" in table.column_names else None
    return GroundTruth(queries, _strings(path, table, "reference_id"), kinds, source=str(path))


def read_predictions(path: Path) -> Predictions:
    """Read a CSV, tab-separated or Parquet table with `query_id,reference_id,score`; other columns are ignored.

    A text file without a header has exactly these three columns. Raises InputError for a file that is missing, not
    readable, or without these columns, for an empty id, and for a score that is not a number.
    """
    table = _read_table(path, PREDICTION_COLUMNS)
    queries, references = _ids(path, table, "query_id"), _ids(path, table, "reference_id")
    return Predictions(queries, references, _scores(path, table), source=str(path))


def _read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    if not path.is_file():
        raise InputError(f"no such file: {path}; give a CSV or Parquet file with {', '.join(required)}")
    try:
        if path.suffix.lower() == ".parquet":
            names = pq.read_schema(path).names
            return pq.ParquetFile(path).read(columns=_choose_columns(path, names, required, optional))
        return _read_text(path, required, optional)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"unreadable table {path}: {reason}; write it as CSV (UTF-8) or Parquet") from error


def _read_text(path: Path, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    lines_before, line = _first_line(path)
    delimiter = "\t" if "\t" in line else ","
    names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    if has_header := not _HEADER_WORDS.isdisjoint(name.lower() for name in names):
        lines_before += 1
    elif len(names) == len(required):
        names = list(required)
    else:
        columns = ",".join(required)
        raise InputError(f"{path} begins with {line.strip()!r}: neither a header nor {columns}; add a header line")
    chosen = _choose_columns(path, names, required, optional)
    if has_header and not _has_data(path, lines_before):
        return pa.table({name: pa.array([], pa.string()) for name in chosen})
    return pa_csv.read_csv(
        path,
        # Only a single-threaded reader names the row at fault.
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=lines_before, use_threads=False),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
        convert_options=pa_csv.ConvertOptions(include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string())),
    )


def _first_line(path: Path) -> tuple[int, str]:
    """Return the number of blank lines at the head of a text file, and the line after them."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file):
            if line.strip():
                return number, line.rstrip("\r\n")
    raise InputError(f"{path} is empty; give at least a header line")


def _has_data(path: Path, skipped: int) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        return any(line.strip() for number, line in enumerate(file) if number >= skipped)


def _choose_columns(path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    for name in required:
        if names.count(name) != 1:
            fault = "lacks the column" if name not in names else "has more than one column"
            raise InputError(f"{path} {fault} {name!r}; its columns are {', '.join(names)}")
    return [*required, *(name for name in optional if name in names)]


def _strings(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    column = table.column(name)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise InputError(f"{path}: the column {name!r} has the type {column.type}; write it as text or numbers")
    texts = pc.fill_null(column.cast(pa.string()), "")
    return pc.utf8_trim_whitespace(texts).to_numpy()  # type: ignore[no-any-return]


def _ids(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    ids = _strings(path, table, name)
    empty = np.flatnonzero(ids == "")
    if empty.size:
        raise InputError(f"{path}: row {empty[0] + 1} (the header not counted) has no {name}; fill it in or drop it")
    return ids


def _scores(path: Path, table: pa.Table) -> NDArray[np.float64]:
    column = table.column("score")
    if (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)) and not column.null_count:
        return np.asarray(column.to_numpy(), dtype=np.float64)
    texts = _strings(path, table, "score")
    try:
        return texts.astype(np.float64)
    except ValueError:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_number(text))
        where = f"row {row + 1} (the header not counted)"
        raise InputError(f"{path}: the score {text!r} in {where} is not a number; higher means more alike") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _overall_table(evaluation: Evaluation) -> Table:
    overall = evaluation.overall
    table = Table(title="All queries", title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    threshold = "" if overall.threshold_at_p90 is None else f" (score ≥ {overall.threshold_at_p90:g})"
    table.add_row("micro-AP", _figure(overall.micro_ap))
    table.add_row(f"recall at 90 % precision{threshold}", _figure(overall.recall_at_p90, absent="not reached"))
    table.add_row("recall at rank 1", _figure(overall.rank1))
    table.add_row("recall at rank 10", _figure(overall.rank10))
    table.add_section()
    table.add_row("queries", f"{evaluation.queries:,}")
    table.add_row("true pairs", f"{overall.pairs:,}")
    table.add_row("predictions", f"{overall.predictions:,}")
    if evaluation.unknown:
        table.add_row("… of queries not in the ground truth, counted as false", f"{evaluation.unknown:,}")
    return table


def _kind_table(rows: Sequence[KindMetrics]) -> Table:
    table = Table(title="By kind of edit", title_justify="left")
    table.add_column("kind")
    for name in ("queries", "true pairs", "top-1", "found at P90", "micro-AP"):
        table.add_column(name, justify="right")
    for row in rows:
        counts = (f"{row.queries:,}", f"{row.pairs:,}")
        table.add_row(escape(row.kind), *counts, _figure(row.top1), _figure(row.found), _figure(row.micro_ap))
    return table


def _figure(value: float | None, absent: str = "–") -> str:
    return absent if value is None else f"{value:.5f}"
