"""Files that are whole or absent: write to a temporary name in the same folder, then move into place."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

STAMP_KEY = b"copytrace.stamp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it replaces `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if not error.errno:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # pyarrow does not name the file
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically and return `path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write indented JSON with sorted keys atomically and return `path`."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def write_table(path: Path, table: pa.Table, *, stamp: str = "") -> Path:
    """Write a Parquet file atomically, with `stamp` (see `digest_of`) in its metadata, and return `path`."""
    metadata = {**(table.schema.metadata or {}), STAMP_KEY: stamp.encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")
    return path


def write_csv(path: Path, table: pa.Table) -> Path:
    """Write a CSV file atomically, quotes only where they are needed, and return `path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # pyarrow quotes all names of columns; other programs compare the line.
        file.write((",".join(table.column_names) + "\n").encode())
        pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(include_header=False))
    return path


def read_stamp(path: Path) -> str | None:
    """Return the stamp of a Parquet file, or None if the file does not exist or is not readable Parquet."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    stamp: bytes = metadata.get(STAMP_KEY, b"")
    return stamp.decode()


def digest_of(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any of the JSON-able `parts` changes."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
