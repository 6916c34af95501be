"""Files that are whole or absent, on disk or in an object store such as S3.

A local file is written under a temporary name in the same folder and then moved into place. An object is written to a
local temporary folder and then uploaded; a store shows an object only once all of it has arrived.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from copytrace.cells import FROM_STRANGERS, neutralize_column
from copytrace.checksums import note_written
from copytrace.lease import check_lease, hold_lease
from copytrace.object_store import StoredPath, filesystem_of
from models.atomic_file import UMASK

FIRST_REQUEST = 1 << 20  # bytes of a table that the first request to a store fetches; most tables are smaller
ROWS_FOR_THREADS = 1 << 14  # of a table; threads take longer to start than to read fewer
FOOTER = 64 << 10  # bytes at the end of a Parquet file, which usually hold its schema and statistics


def is_uri(path: str) -> bool:
    """Return whether `path` is a URI for fsspec (`s3://bucket/key`), not a local path."""
    return "://" in path


def resolve_path(place: str | Path) -> Path:
    """Return a `Path` for a local place, or a `StoredPath` for a URI that fsspec opens (`s3://…`).

    A `StoredPath` is typed as a `Path`: it has the methods that this package calls, and the functions of this module
    handle the differences. Nothing is looked up yet. Raises `InputError` for an unknown scheme.
    """
    text = str(place)
    if not is_uri(text):
        return Path(text)
    _, path = filesystem_of(text)
    return Path(path) if text.startswith("file://") else cast(Path, StoredPath(text))


def real_path(path: str) -> str:
    """Return the path that all spellings of a local file share, with links followed; a URI is returned as it is."""
    if is_uri(path):
        return path
    if Path(path).is_symlink():
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}/{name}"


def file_identity(path: str) -> str:
    """Return what all names of a local file share, spellings and links of both kinds: its device and inode.

    A URI is returned as it is, and of a file that cannot be looked up, the real path.
    """
    try:
        status = Path(path).stat() if not is_uri(path) else None
    except (OSError, ValueError):  # ValueError: a null byte in the path
        status = None
    return f"{status.st_dev}:{status.st_ino}" if status and status.st_ino else real_path(path)


_real_folder = lru_cache(maxsize=4096)(os.path.realpath)  # a folder is looked up once, not for each of its files


def require_writable(place: str | Path) -> Path:
    """Return `resolve_path(place)` after proving that a place in a store can be written.

    Call it before hours of work. Raises `StorageError` if keys, bucket or endpoint are wrong; it says what to do.
    """
    path = resolve_path(place)
    if remote := as_stored_path(path):
        remote.prove_writable()
    return path


@contextmanager
def open_output(place: str | Path) -> Iterator[Path]:
    """Yield `require_writable(place)`, into which no other run writes while the block runs; see `lease`.

    Raises `InUseError` if another run does, and `StorageError` as `require_writable` does.
    """
    path = require_writable(place)
    with hold_lease(path):
        yield path


def as_stored_path(path: Path) -> StoredPath | None:
    """Return `path` as the `StoredPath` that it is, or None for a local path."""
    value: object = path  # a StoredPath is typed as a Path; see `resolve_path`
    return value if isinstance(value, StoredPath) else None


def open_file(path: str) -> IO[bytes]:
    """Open a local file or a URI for reading. Raises the errors of the disk or of the store's client."""
    if not is_uri(path):
        return Path(path).open("rb")
    store, key = filesystem_of(path)
    opened: IO[bytes] = store.open(key, "rb")
    return opened


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a local temporary path, which becomes `path` on a clean exit and is removed on an error.

    Raises `LeaseLostError` if another run has taken over the folder in which `path` lies.
    """
    with _temporary_sibling(path) if (remote := as_stored_path(path)) is None else _temporary_copy(path) as temporary:
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            note_written(path, temporary)
            check_lease(path)
            if remote is None:
                temporary.chmod(0o666 & ~UMASK)  # a temporary file is for the user alone
                temporary.replace(path)
        except OSError as error:
            if not error.errno:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # pyarrow does not name the file
        if remote is not None:
            remote.upload(temporary)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield `path` itself or, for an object in a store, a local copy that is deleted when the block ends.

    It is meant for libraries that read only local files. Raises `FileNotFoundError` if there is no such file.
    """
    remote = as_stored_path(path)
    if remote is None:
        yield path
        return
    with _temporary_copy(path) as copy:
        remote.download(copy)
        yield copy


def files_below(root: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, or all objects below a name, sorted."""
    if remote := as_stored_path(root):
        return [cast(Path, path) for path in remote.find()]
    return sorted(path for path in root.rglob("*") if path.is_file())


def remove_file(path: Path) -> None:
    """Delete a file if there is one. Raises `LeaseLostError` as `atomic_path` does."""
    check_lease(path)
    path.unlink(missing_ok=True)


def remove_tree(root: Path) -> None:
    """Delete a folder and everything in it, or all objects below a name. Raises `LeaseLostError` as `atomic_path`."""
    check_lease(root)
    remote = as_stored_path(root)
    if remote is None:
        shutil.rmtree(root)
    else:
        remote.remove_all()


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically and return `path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON with sorted keys atomically and return `path`."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


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


def file_size(path: Path) -> int | None:
    """Return the number of bytes of a file, or None if there is no such file."""
    try:
        if remote := as_stored_path(path):
            return remote.size()
        return path.stat().st_size
    except FileNotFoundError:
        return None


def time_of_writing(path: Path) -> int | None:
    """Return when a local file was written, in nanoseconds; None if there is none, and for objects in a store."""
    try:
        return None if as_stored_path(path) else path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def digest_of(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any of the JSON-able `parts` changes."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    return sha256_of(path)[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@contextmanager
def _temporary_sibling(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _temporary_copy(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder; stores derive the content type from its suffix."""
    with tempfile.TemporaryDirectory(prefix="copytrace-") as folder:
        yield Path(folder) / path.name


def table_of_rows(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return a table of rows that have the columns of `schema`, in their order."""
    return pa.table(list(zip(*rows, strict=True)) if rows else [()] * len(schema), schema=schema)
