"""The manifest of an index: which media it holds, in columns, so that a million of them open in a moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from copytrace.arrays import Numbers
from copytrace.checked_files import damage_errors, read_sealed, seal
from copytrace.errors import StorageError
from copytrace.media.files import MediaItem
from copytrace.media.stamps import inode_in
from copytrace.object_store import as_stored_path
from copytrace.tables import table_of_rows, write_table

ITEM_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "path", "stamp", "content")])
MANIFEST_SCHEMA = ITEM_SCHEMA.append(pa.field("shard", pa.int32()))
STATES_KEY = b"copytrace.shards"
_ROWS_PER_BISECTION = 1000  # a hash table of the ids takes as long as a bisection for each so many of them

item_values = attrgetter(*ITEM_SCHEMA.names)
"""Return the fields of a media item as a tuple."""


class Manifest(Mapping[str, tuple[MediaItem, int]]):
    """The media item and the shard of each id; a table of `MANIFEST_SCHEMA`, sorted by id."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._id, self._path, self._stamp, self._content = map(_texts, table.select(ITEM_SCHEMA.names).columns)
        self.shard_numbers: NDArray[np.int32] = table.column("shard").to_numpy()

    @classmethod
    def of(cls, items: Mapping[str, tuple[MediaItem, int]], states: Mapping[int, str]) -> Manifest:
        """Return the manifest of some items; see `states`."""
        rows = [(*item_values(item), shard) for _, (item, shard) in sorted(items.items())]
        return cls(table_of_rows(rows, MANIFEST_SCHEMA).replace_schema_metadata({STATES_KEY: json.dumps(states)}))

    def __getitem__(self, identity: str) -> tuple[MediaItem, int]:
        row = self._row(identity)
        item = MediaItem(identity, *(column[row].as_py() for column in (self._path, self._stamp, self._content)))
        return item, int(self.shard_numbers[row])

    def __contains__(self, identity: object) -> bool:
        try:
            return isinstance(identity, str) and self._row(identity) >= 0
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return (identity.as_py() for identity in self._id)

    def __len__(self) -> int:
        return len(self._id)

    def __repr__(self) -> str:
        return f"Manifest of {len(self):,} media"

    def as_dict(self) -> dict[str, tuple[MediaItem, int]]:
        """Return all rows as Python objects: a kilobyte each, for changing an index, not for reading it."""
        return {item.id: (item, shard) for item, shard in zip(self.media(), self.shard_numbers.tolist(), strict=True)}

    def media(self) -> list[MediaItem]:
        """Return all media, as `as_dict`."""
        columns = [column.to_pylist() for column in (self._id, self._path, self._stamp, self._content)]
        return list(map(MediaItem, *columns))

    @cached_property
    def states(self) -> dict[int, str]:
        """Fingerprint of each shard, which says what was described in it and how; empty in an index of 0.1.0."""
        stored = (self.table.schema.metadata or {}).get(STATES_KEY, b"{}")
        return {int(shard): state for shard, state in json.loads(stored).items()}

    @cached_property
    def shards(self) -> list[int]:
        """Numbers of the shards that hold current rows, ascending."""
        return [int(shard) for shard in np.unique(self.shard_numbers)]

    @cached_property
    def digest(self) -> str:
        """Digest of the ids and contents; it does not depend on paths, shards, or the order in which an index grew."""
        known = pc.if_else(pc.equal(self._content, ""), self._stamp, self._content)
        return _digest_of_texts(self._id, known)

    @cached_property
    def path_digest(self) -> str:
        """Digest of the ids and paths."""
        return _digest_of_texts(self._id, self._path)

    @cached_property
    def stamp_digest(self) -> str:
        """Digest of the stamps."""
        return _digest_of_texts(self._stamp)

    def ids_in(self, shard: int) -> list[str]:
        """Return the ids of the media of a shard, ascending."""
        ordered, numbers = self._by_shard
        start, stop = np.searchsorted(numbers, [shard, shard + 1])
        ids: list[str] = self._id.take(pa.array(ordered[start:stop])).to_pylist()
        return ids

    def shards_of(self, ids: Sequence[str]) -> Numbers:
        """Return the shard of each of N ids, int64 [N]; −1 if the index lacks it."""
        rows = self.rows_of(ids)
        return np.where(rows < 0, -1, self.shard_numbers[rows] if len(self) else -1)

    def rows_of(self, ids: Sequence[str]) -> Numbers:
        """Return the row of each of N ids, int64 [N]; −1 if the index lacks it."""
        if len(ids) * _ROWS_PER_BISECTION < len(self):
            return np.array([self._bisect(identity) for identity in ids], np.int64)
        rows: Numbers = (
            pc.fill_null(pc.index_in(pa.array(ids, pa.large_string()), self._id), -1).to_numpy().astype(np.int64)
        )
        return rows

    def ids_shared_with(self, other: Manifest) -> list[str]:
        """Return the ids that another manifest has too."""
        shared: list[str] = self._id.filter(pc.is_in(self._id, value_set=other._id)).to_pylist()
        return shared

    def places_shared_with(self, other: Manifest) -> list[str]:
        """Return path and inode of the media that another manifest may hold too: of the same content or path.

        Where a content is not known, as in an index of 0.1.0, it may be the same as any.
        """
        same_content = _is_among(self._content, other._content)
        shared = pc.or_(same_content, _is_among(self._path, other._path))
        if other.has_unknown_contents:
            shared = pa.array([True] * len(self), pa.bool_())
        elif self.has_unknown_contents:
            shared = pc.or_(shared, pc.equal(self._content, ""))
        places = zip(self._path.filter(shared).to_pylist(), self._stamp.filter(shared).to_pylist(), strict=True)
        return [f"{path} {inode_in(stamp)}" for path, stamp in places]

    @cached_property
    def has_unknown_contents(self) -> bool:
        """Whether the content of a medium is not known: in an index of 0.1.0, and of most stores."""
        return bool(pc.any(pc.equal(self._content, "")).as_py())

    @property
    def paths(self) -> Mapping[str, str]:
        """Path of each medium, by its id."""
        return _Paths(self)

    @cached_property
    def _by_shard(self) -> tuple[Numbers, NDArray[np.int32]]:
        ordered = np.argsort(self.shard_numbers, kind="stable")
        return ordered, self.shard_numbers[ordered]

    def _row(self, identity: str) -> int:
        """Return the row of an id. Raises `KeyError` if there is none."""
        if (row := self._bisect(identity)) < 0:
            raise KeyError(identity)
        return row

    def _bisect(self, identity: str) -> int:
        """Return the row of an id, −1 if there is none."""
        low, high = 0, len(self._id)
        while low < high:
            middle = (low + high) // 2
            if self._id[middle].as_py() < identity:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._id) and self._id[low].as_py() == identity else -1


@dataclass(frozen=True, slots=True)
class _Paths(Mapping[str, str]):
    manifest: Manifest

    def __getitem__(self, identity: str) -> str:
        return self.manifest[identity][0].path

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest)

    def __len__(self) -> int:
        return len(self.manifest)


def read_manifest(root: Path) -> Manifest | None:
    """Return the manifest of the index at `root`, or None if there is none; a process reads it once, until it changes.

    Raises `DamagedFileError` if it is damaged.
    """
    path = root / "manifest.parquet"
    try:
        if stored := as_stored_path(root):
            etag = ""
            with suppress(StorageError):  # a store on the web may refuse to list, and yet give the file
                etag = stored.etags().get(path.name, "")
            return _read_once(path, (etag,)) if etag else _read(path)
        status = path.stat()
        return _read_once(path, (status.st_ino, status.st_size, status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_manifest(root: Path, items: Mapping[str, tuple[MediaItem, int]], states: Mapping[int, str]) -> Path:
    """Write the manifest of the index at `root`, and return its path."""
    return write_table(root / "manifest.parquet", seal(Manifest.of(items, states).table))


def _read(path: Path) -> Manifest:
    with damage_errors(path, None, may_be_missing=True):
        table = read_sealed(path)
        if "content" not in table.column_names:  # of version 0.1.0
            table = table.append_column("content", pa.array([""] * len(table), pa.string()))
        return Manifest(table.select(MANIFEST_SCHEMA.names))


@lru_cache(maxsize=4)  # queries, references and noise
def _read_once(path: Path, state: tuple[object, ...]) -> Manifest:
    return _read(path)


def _is_among(texts: pa.LargeStringArray, others: pa.LargeStringArray) -> pa.BooleanArray:
    """Return which of some texts are among others; only the smaller side is put into a hash table."""
    if len(texts) < len(others):
        others = others.filter(pc.is_in(others, value_set=texts))
    return pc.is_in(texts, value_set=others)


def _texts(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """Return texts as one array, which may have more than 2 GiB, with an offset of 0."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks])


def _digest_of_texts(*columns: pa.LargeStringArray) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(pc.binary_length(column).to_numpy())
        digest.update(column.buffers()[2] or b"")
    return digest.hexdigest()[:16]
