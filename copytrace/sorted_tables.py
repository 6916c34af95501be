"""Sorting of more rows than fit into memory: sorted runs in temporary files, which are merged as they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

ROWS_IN_MEMORY = 1 << 15
FEWEST_ROWS = 64  # of a run that are looked at together

Order = Sequence[tuple[str, str]]


class SortedTables:
    """Tables of one schema whose rows are yielded in an `order` that leaves none equal, as of `pa.Table.sort_by`.

    Memory holds some `ROWS_IN_MEMORY` rows and one table that is added, however many there are. Columns of the order
    have no nulls; what is ordered descending is numbers. Use it as a context: temporary files last as long.
    """

    def __init__(self, schema: pa.Schema, order: Order) -> None:
        self._schema, self._order = schema, list(order)
        self._waiting: list[pa.Table] = []
        self._runs: list[pa.Table] = []
        self._files = ExitStack()

    def __enter__(self) -> Self:
        self._folder = Path(self._files.enter_context(TemporaryDirectory(prefix="copytrace-")))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting, self._runs = [], []
        self._files.close()

    def add(self, table: pa.Table) -> None:
        """Add a table."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROWS_IN_MEMORY:
            self._runs.append(self._to_disk(self._sort(self._waiting)))
            self._waiting = []

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield all rows in their order, in tables of `rows` rows; the last one may have fewer, and is always there."""
        return cut_tables(self._merge([*self._runs, self._sort(self._waiting)]), rows, self._schema)

    def _sort(self, tables: Iterable[pa.Table]) -> pa.Table:
        return pa.concat_tables([self._schema.empty_table(), *tables]).sort_by(self._order)

    def _to_disk(self, table: pa.Table) -> pa.Table:
        path = self._folder / str(len(self._runs))
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._schema) as writer:
            writer.write_table(table)
        mapped = self._files.enter_context(pa.memory_map(str(path)))
        return pa.ipc.open_file(mapped).read_all()

    def _merge(self, runs: Sequence[pa.Table]) -> Iterator[pa.Table]:
        together = max(ROWS_IN_MEMORY // len(runs), FEWEST_ROWS)
        starts = [0] * len(runs)
        while left := [number for number, run in enumerate(runs) if starts[number] < len(run)]:
            ends = {number: min(starts[number] + together, len(runs[number])) for number in left}
            # Up to the first of the rows that are looked at last, no run can have a row that is not looked at.
            bound = min(self._key(runs[number], ends[number] - 1) for number in left)
            parts = []
            for number in left:
                run, start = runs[number], starts[number]
                end = bisect_right(range(ends[number]), bound, lo=start, key=partial(self._key, run))
                parts.append(run.slice(start, end - start))
                starts[number] = end
            yield self._sort(parts)

    def _key(self, run: pa.Table, row: int) -> tuple[Any, ...]:
        values = ((run.column(name)[row].as_py(), direction) for name, direction in self._order)
        return tuple(-value if direction == "descending" else value for value, direction in values)


def cut_tables(tables: Iterable[pa.Table], rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `rows` rows; the last one may have fewer, and is there if all are empty.

    Each column of what is yielded is in one piece, so that a file of it does not tell how the rows came.
    """
    waiting, is_first = schema.empty_table(), True
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) > rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting, is_first = waiting.slice(rows), False
    if len(waiting) or is_first:
        yield waiting.combine_chunks()
