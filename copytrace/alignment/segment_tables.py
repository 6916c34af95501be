"""Tables of segments, with the columns of `SEGMENT_SCHEMA`, row by row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from copytrace.alignment.align import SEGMENT_SCHEMA
from copytrace.alignment.segments import Segment
from copytrace.panes.names import WHOLE

LEAST_SCORE = 0.02  # of the segments whose moments are found more exactly
TIMES = ("query_start", "query_end", "ref_start", "ref_end")


def segments_of(table: pa.Table, rows: Sequence[int]) -> list[Segment]:
    """Return the segments in some rows of a table."""
    chosen = table.take(pa.array(rows, pa.int64()))
    columns = [chosen.column(name).to_pylist() for name in (*TIMES, "score", "reversed")]
    return [Segment(*each) for each in zip(*columns, strict=True)]


def replace_segments(table: pa.Table, segments: Mapping[int, Segment], *, in_whole: Collection[int] = ()) -> pa.Table:
    """Return a table with other segments in some rows; those of the rows `in_whole` are of the whole frame."""
    columns = {name: table.column(name).to_pylist() for name in (*TIMES, "score", "reversed", "pane")}
    for row, segment in segments.items():
        pane = WHOLE if row in in_whole else columns["pane"][row]
        for name, value in zip(columns, (*segment.box, segment.score, segment.reversed, pane), strict=True):
            columns[name][row] = value
    for name, values in columns.items():
        field = SEGMENT_SCHEMA.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    return table


def room_between(others: Sequence[Segment], segment: Segment) -> tuple[float, float]:
    """Return from which second of the query a segment may begin, and by which it must end, next to `others`.

    It may keep what it has; `others` of the same two videos, such as those of a loop, bound how far it may grow.
    """
    middle = (segment.query_start + segment.query_end) / 2
    before = [each.query_end for each in others if each.query_end <= middle]
    after = [each.query_start for each in others if each.query_start >= middle]
    return (
        min(segment.query_start, max(before, default=-math.inf)),
        max(segment.query_end, min(after, default=math.inf)),
    )


def best_of_each_query(table: pa.Table, count: int, least_score: float = 0.0) -> list[int]:
    """Return the rows of the best `count` segments of each query, of `least_score` or more; the table is best first."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    columns = [table.column(name).to_pylist() for name in ("query_id", "score")]
    for row, (query, score) in enumerate(zip(*columns, strict=True)):
        if len(rows[query]) < count and score >= least_score:
            rows[query].append(row)
    return sorted(row for of_query in rows.values() for row in of_query)
