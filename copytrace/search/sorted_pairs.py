"""Pairs of a query and a reference from all shards as one table, best first, however many they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from copytrace.search.own_files import SharedFiles
from copytrace.sorted_tables import Order, SortedTables, cut_tables
from copytrace.tables import open_csv, open_table

ROWS_PER_GROUP = 1 << 15  # of the tables; memory holds some times as many


class SortedPairs(SortedTables):
    """Tables of one schema, whose two `columns` name a pair, sorted like `SortedTables`."""

    def __init__(self, schema: pa.Schema, order: Order, columns: Sequence[str]) -> None:
        super().__init__(schema, order)
        self._columns = columns
        self._ids: tuple[set[str], set[str]] = (set(), set())

    def add(self, table: pa.Table) -> None:
        """Add a table."""
        super().add(table)
        for column, ids in zip(self._columns, self._ids, strict=True):
            ids.update(pc.unique(table.column(column)).to_pylist())

    def write(
        self,
        parquet: Path,
        paths: Sequence[Mapping[str, str]],
        keep: Callable[[SharedFiles, pa.Table], pa.Table],
        as_csv: Callable[[pa.Table], pa.Table],
    ) -> None:
        """Write all rows to `parquet` and, as `as_csv` returns them, to the `.csv` beside it.

        `paths` are those of queries and of references by id. Of files on both sides, `keep`, a method of `SharedFiles`,
        tells which rows remain.
        """
        shared = SharedFiles.of(self._columns, self._ids, paths)
        with open_csv(parquet.with_suffix(".csv")) as write, open_table(parquet, self._schema) as write_rows:
            kept = (keep(shared, table) for table in self.tables(ROWS_PER_GROUP))
            for table in cut_tables(kept, ROWS_PER_GROUP, self._schema):
                write(as_csv(table))
                write_rows(table)
