"""Manifests: CSV and Parquet files with columns `id` and `path` that list media."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from copytrace.errors import InputError
from copytrace.object_store import redact
from copytrace.storage import is_uri, open_file

MANIFEST_SUFFIXES = {".csv", ".parquet"}

_MOST_NAMES = 3  # names in an error message
_HEAD_BYTES, _SHOWN = 4096, 60  # that are read of a manifest for its first line, and characters of it in a message
_MARK = "\ufeff"  # that some programs put before a text in UTF-8

_COLUMNS = re.compile(r"Expected (\d+) columns, got (\d+)")


def is_manifest(path: str) -> bool:
    """Return whether a file has the name of a manifest."""
    return Path(path).suffix.lower() in MANIFEST_SUFFIXES


def read_media_manifest(path: str) -> tuple[list[str], list[str]]:
    """Return the ids and the paths or URIs of a manifest; relative paths start at its folder.

    Raises `InputError` if it cannot be read, lacks a column, an id or a path, or repeats an id.
    """
    table = _manifest_table(path)
    for name in ("id", "path"):
        blank = [str(row) for row, text in enumerate(table[name].to_pylist(), start=1) if not (text or "").strip()]
        if blank:
            raise InputError(f"manifest {redact(path)}: no {name} in row {join_names(blank)}; every row needs one")
    ids: list[str] = table["id"].to_pylist()
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"manifest {redact(path)} repeats id {join_names(repeated)}; ids must be unique")
    folder = path.rpartition("/")[0]
    return ids, [row if is_uri(row) or row.startswith("/") else f"{folder}/{row}" for row in table["path"].to_pylist()]


def join_names(names: list[str]) -> str:
    """Return the first names, and how many more there are, for a message."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _manifest_table(path: str) -> pa.Table:
    """Return columns `id` and `path` as strings, so that `007` stays `007`."""
    wanted, first = {"id": pa.string(), "path": pa.string()}, ""
    try:
        with open_file(path) as stream:
            if path.lower().endswith(".parquet"):
                table = pq.ParquetFile(stream).read(columns=list(wanted)).select(list(wanted)).cast(pa.schema(wanted))
                table.validate(full=True)  # texts may be none
                return table
            first = stream.read(_HEAD_BYTES).decode(errors="replace").removeprefix(_MARK).partition("\n")[0].strip()
            stream.seek(0)
            table = pyarrow.csv.read_csv(
                stream,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=wanted, include_columns=list(wanted)),
            )
    except KeyError as error:
        is_text = first.isprintable() and "\ufffd" not in first
        shown = f"its first line is {redact(first)[:_SHOWN]}" if is_text else "it is no UTF-8 text"
        seen = f"; {shown}" if first else ""
        raise InputError(f"manifest {redact(path)} lacks a column; it needs id and path{seen}") from error
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno or is_uri(path)):  # the disk or the store, not what is there
            raise
        kind = Path(path).suffix[1:].lower()
        raise InputError(
            f"manifest {redact(path)} cannot be read as {kind} with columns id and path{_reason(error)}"
        ) from error
    for name in wanted:
        if [column.strip('"') for column in first.split(",")].count(name) > 1:
            raise InputError(f"manifest {redact(path)} has several columns {name}; leave one")
    return table


def _reason(error: Exception) -> str:
    """Return what pyarrow says is wrong, without the line that it quotes, which may have keys in it."""
    if found := _COLUMNS.search(str(error)):
        return f": a row has {found[2]} value{'' if found[2] == '1' else 's'} for {found[1]} columns"
    return ": it is no UTF-8 text" if "UTF8" in str(error) else ""
