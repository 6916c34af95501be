"""Reading of columns of a CSV, tab-separated or Parquet table by name; errors name the row at fault."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pa_csv

from configs.bounded_files import bounded_lines
from copytrace.cells import FROM_STRANGERS, restore_column
from copytrace.errors import InputError
from copytrace.tables import open_parquet, read_schema

# A first line with one of these words, or with the name of a required column, is a header, possibly another tool's; any
# other first line is data.
_HEADER_WORDS = {
    *("query_id", "reference_id", "score", "kind"),
    *("query", "reference", "ref_id", "ref", "query_image_id", "db_image_id"),
}


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), aliases: Mapping[str, str] | None = None
) -> pa.Table:
    """Return the required columns, then the optional ones that the file has; ignore other columns.

    Columns of text files are strings. A text file without a header has exactly the required columns. `aliases` are
    column names of other tools: with `{"reference_id": "ref_id"}`, a column `reference_id` is read as `ref_id` if the
    file has no column of that name. Raises `InputError` if the file is missing or unreadable, or if a required column
    is missing or occurs twice.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}; give a CSV or Parquet file with {', '.join(required)}")
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path, required, optional, aliases or {})
        return _read_text(path, required, optional, aliases or {})
    except (pa.ArrowException, ValueError, csv.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk, and not what is on it
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"unreadable table {path}: {reason}; write it as CSV (UTF-8) or Parquet") from error


def read_strings(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as str objects (n,) without surrounding blanks, null as ""; `path` is for error messages.

    Raises `InputError` if the column has neither text nor numbers.
    """
    column = table.column(name)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise InputError(f"{path}: the column {name!r} has the type {column.type}; write it as text or numbers")
    try:
        texts = pc.fill_null(column.cast(pa.string()), "")
    except pa.ArrowException as error:
        raise InputError(
            f"{path}: the column {name!r} ({column.type}) is no text: {error}; write it as UTF-8"
        ) from error
    return pc.utf8_trim_whitespace(texts).to_numpy()  # type: ignore[no-any-return]


def read_ids(path: Path, table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as `read_strings` does. Raises `InputError` if a value is empty."""
    ids = read_strings(path, table, name)
    empty = np.flatnonzero(ids == "")
    if empty.size:
        raise InputError(f"{path}: row {empty[0] + 1} (not counting the header) has no {name}; fill it in or drop it")
    return ids


def read_numbers(path: Path, table: pa.Table, name: str, meaning: str) -> NDArray[np.float64]:
    """Return a column as float64 (n,), which may contain NaN and infinities; `meaning` ends the error message.

    Raises `InputError` if a value is empty or not a number.
    """
    column = table.column(name)
    if (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)) and not column.null_count:
        return np.asarray(column.to_numpy(), dtype=np.float64)
    texts = read_strings(path, table, name)
    try:
        return texts.astype(np.float64)
    except ValueError:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_number(text))
        where = f"row {row + 1} (not counting the header)"
        raise InputError(f"{path}: the {name} {text!r} in {where} is not a number; {meaning}") from None


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str], aliases: Mapping[str, str]) -> pa.Table:
    own_names = read_schema(path).names
    names = _rename(own_names, aliases)
    chosen = _choose_columns(path, names, required, optional)
    with open_parquet(path) as file:
        table = file.read(columns=[own_names[names.index(name)] for name in chosen])
    table.validate(full=True)  # texts may be none
    return table.rename_columns(_rename(table.column_names, aliases)).select(chosen)


def _read_text(path: Path, required: Sequence[str], optional: Sequence[str], aliases: Mapping[str, str]) -> pa.Table:
    lines_before, line = _first_line(path)
    delimiter = "\t" if "\t" in line else ","
    names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    if has_header := not {*_HEADER_WORDS, *required}.isdisjoint(name.lower() for name in names):
        lines_before += 1
    elif len(names) == len(required):
        names = list(required)
    else:
        columns = ",".join(required)
        raise InputError(f"{path} begins with {line.strip()!r}: neither a header nor {columns}; add a header line")
    names = _rename(names, aliases)
    chosen = _choose_columns(path, names, required, optional)
    if has_header and not _has_data(path, lines_before):
        return pa.table({name: pa.array([], pa.string()) for name in chosen})
    with path.open("rb") as file:
        table = pa_csv.read_csv(
            file,
            # Only the single-threaded reader names the row at fault.
            read_options=pa_csv.ReadOptions(column_names=names, skip_rows=lines_before, use_threads=False),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter),
            convert_options=pa_csv.ConvertOptions(
                include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string())
            ),
        )
    restored = [restore_column(table.column(name)) if name in FROM_STRANGERS else table.column(name) for name in chosen]
    return pa.table(dict(zip(chosen, restored, strict=True)))


def _first_line(path: Path) -> tuple[int, str]:
    """Return the number of blank lines at the start of a text file, and the line after them."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(bounded_lines(file)):
            if line.strip():
                return number, line.rstrip("\r\n")
    raise InputError(f"{path} is empty; give at least a header line")


def _has_data(path: Path, skipped: int) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        return any(line.strip() for number, line in enumerate(bounded_lines(file)) if number >= skipped)


def _rename(names: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Return the names with aliases replaced, except where the file also has the column under its real name."""
    return [name if aliases.get(name, name) in names else aliases[name] for name in names]


def _choose_columns(path: Path, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    for name in required:
        if names.count(name) != 1:
            fault = "lacks the column" if name not in names else "has more than one column"
            raise InputError(f"{path} {fault} {name!r}; its columns are {', '.join(names)}")
    return [*required, *(name for name in optional if name in names)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
