"""Tables: Parquet and CSV files, on disk or in a store. Writing is atomic, as in `storage`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from copytrace.cells import FROM_STRANGERS, neutralize_column
from copytrace.object_store import as_stored_path
from copytrace.storage import atomic_path

FIRST_REQUEST = 1 << 20  # bytes of a table that the first request to a store fetches; most tables are smaller
ROWS_FOR_THREADS = 1 << 14  # of a table; threads take longer to start than to read fewer
FOOTER = 64 << 10  # bytes at the end of a Parquet file, which usually hold its schema and statistics


def write_table(path: Path, table: pa.Table, *, rows_per_group: int | None = None) -> Path:
    """Write a Parquet file atomically and return `path`; `rows_per_group` is the least that is read of it."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=rows_per_group)
    return path


@contextmanager
def open_table(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that adds a table as a row group; the Parquet file is at `path` if the block raises nothing."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer.write_table


def write_csv(path: Path, table: pa.Table, *, quoted: bool = True) -> Path:
    """Write a CSV file atomically, and return `path`; see `open_csv`."""
    with open_csv(path, quoted=quoted) as write:
        write(table)
    return path


@contextmanager
def open_csv(path: Path, *, quoted: bool = True) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that adds the rows of a table; the CSV file appears at `path` if the block raises nothing.

    Texts have quotes around them or, for readers that know none, are written without.

    Ids and paths that a spreadsheet would run are neutralized; see `cells`. Raises `pyarrow.ArrowInvalid` if a text
    needs quotes and may not have them.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:

        def write(table: pa.Table) -> None:
            if not file.tell():
                # pyarrow would quote the names of columns, and some programs compare the header line as text.
                file.write((",".join(table.column_names) + "\n").encode())
            table = table.combine_chunks()  # pyarrow 25 writes zeros instead of a column whose first piece is empty
            for name in FROM_STRANGERS & set(table.column_names):
                column = neutralize_column(table.column(name))
                table = table.set_column(table.column_names.index(name), name, column)
            style = "needed" if quoted else "none"
            pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(include_header=False, quoting_style=style))

        yield write


def read_table(path: Path, *, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """Read a Parquet file; see `read_columns`. From a large file in a store, only these columns are transferred."""
    with source_of(path) as source:
        return read_columns(source, columns=columns, schema=schema)


def read_columns(source: Any, *, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """Return all columns of a Parquet file, or some of them, or those of a schema, in the order given.

    What the file lacks of a schema is null. Raises `pyarrow.ArrowInvalid` if it lacks one of `columns`. For a small
    file it takes a third of the time of `pyarrow.parquet.read_table`, which makes a data set of it.
    """
    with pq.ParquetFile(source, pre_buffer=True) as file:
        names: list[str] = file.schema_arrow.names
        if missing := set(columns or ()).difference(names):
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
        wanted = list(columns or names) if schema is None else [name for name in schema.names if name in names]
        table = file.read(columns=wanted, use_threads=file.metadata.num_rows > ROWS_FOR_THREADS)
    if schema is None:
        return table.select(wanted)
    nulls = {field.name: pa.nulls(len(table), field.type) for field in schema if field.name not in wanted}
    columns_of = [nulls[name] if name in nulls else table.column(name) for name in schema.names]
    return pa.table(columns_of, schema.names).cast(schema)


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that is read in parts."""
    with source_of(path) as source, pq.ParquetFile(source, pre_buffer=as_stored_path(path) is not None) as file:
        yield file


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file with its metadata; only the end of the file is read."""
    return pq.read_schema(_footer(path))


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file; only the end of the file is read."""
    return int(pq.read_metadata(_footer(path)).num_rows)


def source_of(path: Path) -> AbstractContextManager[Any]:
    """Return a context manager that yields what pyarrow reads: a local path, or the stream of an object."""
    remote = as_stored_path(path)
    return nullcontext(path) if remote is None else remote.stream(FIRST_REQUEST)


def _footer(path: Path) -> Path | io.BytesIO:
    """Return the source from which pyarrow reads metadata: a local path, or the end of an object."""
    remote = as_stored_path(path)
    if remote is None:
        return path
    end = remote.read_range(-FOOTER)
    length = int.from_bytes(end[-8:-4], "little") + 8  # the last eight bytes are the footer's length and PAR1
    return io.BytesIO(end if length <= len(end) or len(end) < FOOTER else remote.read_range(-length))


def table_of_rows(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return a table of rows that have the columns of `schema`, in their order."""
    return pa.table(list(zip(*rows, strict=True)) if rows else [()] * len(schema), schema=schema)
