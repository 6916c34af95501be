"""Files that are checked when they are read: tables, by the checksums in the record of their step, and records.

A record is a JSON file with a checksum of itself, `crc32`, and the `checksums` of files beside or around it, by their
paths relative to it. A table that no record names carries a checksum of its columns in its own metadata. What an older
version wrote without checksums is read unchecked.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from configs.parsing import parse_json
from copytrace.checksums import BlockChecks, CheckedStream, collect_checksums, damage_error
from copytrace.object_store import as_stored_path
from copytrace.storage import local_copy, remove_file, write_json
from copytrace.tables import FIRST_REQUEST, read_columns, read_table, source_of

K = TypeVar("K")
V = TypeVar("V")

_OWN = "crc32"
_SEAL = b"copytrace.crc32"
WHOLE = 4 << 20  # bytes of a table up to which it is read and checked as a whole, which is faster than in parts


def write_record(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a table of settings or of notes as JSON, with a checksum of itself, and return `path`."""
    plain = json.loads(json.dumps(content, default=str))
    return write_json(path, {**plain, _OWN: _checksum(plain)})


def read_record(path: Path) -> dict[str, Any]:
    """Return what `write_record` wrote; nothing if there is no such file. Raises `DamagedFileError`."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        record = parse_json(content)
        if not isinstance(record, dict):
            raise ValueError("not a table")
    except ValueError as error:
        raise damage_error(path) from error
    own = record.pop(_OWN, None)
    # What an older version wrote has no checksum; of a record whose key was damaged, it has another key.
    if _has_lost_key(record) if own is None else own != _checksum(record):
        raise damage_error(path)
    return record


def _has_lost_key(record: Mapping[str, Any]) -> bool:
    """Return whether a value of a record is the checksum of the rest."""
    return any(isinstance(value, str) and value == _checksum(_without(record, key)) for key, value in record.items())


def _without(table: Mapping[K, V], key: K) -> dict[K, V]:
    return {other: value for other, value in table.items() if other != key}


def checksums_by(record: Path, checksums: Mapping[str, str]) -> dict[str, str]:
    """Return checksums of files, by their paths, as the note `checksums` of a record."""
    return {_name(record, path): value for path, value in checksums.items()}


@contextmanager
def record_files(record: Path, *kept: Path) -> Iterator[None]:
    """Write a record with the checksums of the files that this thread writes in the block.

    Checksums that the record had before are dropped, except those of the files `kept`.
    """
    before = read_record(record).get("checksums", {})
    of_kept = {_name(record, str(path)) for path in kept}
    remove_file(record)
    with collect_checksums() as written:
        yield
    checksums = {name: value for name, value in before.items() if name in of_kept}
    write_record(record, {"checksums": checksums | checksums_by(record, written)})


def checks_of(path: Path, record: Path) -> BlockChecks | None:
    """Return the checks of a file by the checksums in a record; None if it has none, as of an older version."""
    checksums = _noted_checksums(record).get(_name(record, str(path)))
    return BlockChecks(path, checksums) if checksums else None


@contextmanager
def checked_copy(path: Path, record: Path) -> Iterator[Path]:
    """Yield a file that a record names, or of an object a local copy of it, as `local_copy` does, after checking it.

    Raises `DamagedFileError` if it is missing or damaged, also if what reads it in the block finds it so.
    """
    checks = checks_of(path, record)
    with damage_errors(path, checks), local_copy(path) as file:
        if checks:
            with file.open("rb") as stream:
                checks.check_stream(stream)
        yield file


def check_file(path: Path, record: Path) -> None:
    """Raise `DamagedFileError` unless a file is as a record says."""
    checks = checks_of(path, record)
    with damage_errors(path, checks), path.open("rb") as stream:
        if checks:
            checks.check_stream(stream)


def read_checked_bytes(path: Path, record: Path) -> bytes:
    """Return the content of a file that a record names. Raises `DamagedFileError` if it is missing or damaged."""
    checks = checks_of(path, record)
    with damage_errors(path, checks):
        content = path.read_bytes()
        if checks:
            checks.check_size(len(content))
            checks.check(0, memoryview(content))
    return content


def files_of(record: Path) -> list[Path]:
    """Return the files of which a record has checksums, sorted. Raises `DamagedFileError` if the record is damaged."""
    return sorted(_join(record.parent, name) for name in read_record(record).get("checksums", {}))


def read_checked(
    path: Path, record: Path | None = None, *, columns: Sequence[str] | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Read a Parquet file that a record names, by default the one beside it; see `read_columns`.

    Raises `DamagedFileError` if it is missing or damaged.
    """
    checks = checks_of(path, record or path.with_suffix(".json"))
    with damage_errors(path, checks), _checked_source(path, checks) as source:
        return read_columns(source, columns=columns, schema=schema)


@contextmanager
def open_checked(path: Path, record: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that a record names, to read parts of it. Raises `DamagedFileError`."""
    checks = checks_of(path, record)
    with (
        damage_errors(path, checks),
        _checked_source(path, checks) as source,
        # The columns of a row group are read together, as each read checks whole blocks.
        pq.ParquetFile(source, pre_buffer=checks is not None or as_stored_path(path) is not None) as file,
    ):
        yield file


def count_checked_rows(path: Path, record: Path) -> int:
    """Return the number of rows of a Parquet file that a record names. Raises `DamagedFileError`."""
    with open_checked(path, record) as file:
        return int(file.metadata.num_rows)


def seal(table: pa.Table) -> pa.Table:
    """Return a table with a checksum of its columns and its metadata in the latter."""
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _SEAL}
    sealed = table.replace_schema_metadata(metadata)
    return table.replace_schema_metadata(metadata | {_SEAL: f"{_checksum_of_table(sealed):08x}"})


def read_sealed(path: Path) -> pa.Table:
    """Read a Parquet file of a table that `seal` returned. Raises `FileNotFoundError`, or `DamagedFileError`."""
    with damage_errors(path, None, may_be_missing=True):
        table = read_table(path)
        metadata = dict(table.schema.metadata or {})
        # Without the seal, as of a record: an older version wrote none, or its name was damaged.
        found = {_SEAL: metadata[_SEAL]} if _SEAL in metadata else metadata
        plain = {key: table.replace_schema_metadata(_without(metadata, key)) for key in found}
        is_sealed = [value == f"{_checksum_of_table(plain[key]):08x}".encode() for key, value in found.items()]
        if (_SEAL in metadata) != any(is_sealed):
            raise damage_error(path)
    return plain.get(_SEAL, table)


@contextmanager
def damage_errors(path: Path, checks: BlockChecks | None, *, may_be_missing: bool = False) -> Iterator[None]:
    """Reraise errors of reading a file that Copytrace wrote as `DamagedFileError`, which says what to do.

    If there are `checks`, the content has passed them, and what is wrong with it is no damage.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if may_be_missing:
            raise
        raise damage_error(path, "missing") from error
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, SyntaxError, TokenError) as error:
        if checks or (isinstance(error, OSError) and error.errno):  # the latter: the disk, and not what is on it
            raise
        raise damage_error(path) from error


def _checked_source(path: Path, checks: BlockChecks | None) -> AbstractContextManager[Any]:
    if checks is None:
        return source_of(path)
    remote = as_stored_path(path)
    stream: Any = remote.stream(FIRST_REQUEST) if remote else path.open("rb")
    if checks.size > WHOLE:
        return CheckedStream(stream, checks)
    with stream:
        content = stream.read(WHOLE + 1)
    checks.check_size(len(content))
    checks.check(0, memoryview(content))
    return nullcontext(pa.BufferReader(content))


def _noted_checksums(record: Path) -> dict[str, str]:
    if as_stored_path(record):
        return dict(read_record(record).get("checksums", {}))
    try:
        status = record.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _read_checksums_once(record, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1024)
def _read_checksums_once(record: Path, state: tuple[int, ...]) -> dict[str, str]:
    return dict(read_record(record).get("checksums", {}))


def _name(record: Path, path: str) -> str:
    return posixpath.relpath(path, str(record.parent))


def _join(folder: Path, name: str) -> Path:
    while name.startswith("../"):
        folder, name = folder.parent, name.removeprefix("../")
    return folder / name


def _checksum(plain: Any) -> str:
    return f"{crc32(json.dumps(plain, sort_keys=True).encode()):08x}"


def _checksum_of_table(table: pa.Table) -> int:
    checksum = 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        checksum = crc32(name.encode(), checksum)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            parts = [pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks]
            texts = pa.concat_arrays(parts)
            checksum = crc32(pc.binary_length(texts).to_numpy(), checksum)
            checksum = crc32(texts.buffers()[2] or b"", checksum)
        else:
            checksum = crc32(column.to_numpy().tobytes(), checksum)
    for key, value in sorted((table.schema.metadata or {}).items()):
        checksum = crc32(key + b"=" + value, checksum)
    return checksum
