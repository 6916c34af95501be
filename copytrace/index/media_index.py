"""An index: a folder of described images or videos, which is read shard by shard.

    INDEX/index.json          its provenance: kind of media, role, settings, digests of models
    INDEX/manifest.parquet    id, path, stamp and shard of every image or video in it
    INDEX/failures.csv        the files that could not be read, or not to their end
    INDEX/receipts/           the record of each shard, with its cost and its failures
    INDEX/descriptors/, …     a file per shard: its content

Shards never change. A file that changed is described again in a new shard, and its rows in the old one are ignored; a
shard without current rows is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from copytrace.errors import InputError, ModelMismatchError, StorageError
from copytrace.media.ingest import MediaItem
from copytrace.storage import digest_of, read_table, write_table

MediaKind = Literal["images", "videos"]
Role = Literal["queries", "references"]

MANIFEST_SCHEMA = pa.schema([("id", pa.string()), ("path", pa.string()), ("stamp", pa.string()), ("shard", pa.int32())])


@dataclass(frozen=True, slots=True)
class MediaIndex:
    """A finished index; `items` has the media item and the shard of each id."""

    root: Path
    provenance: dict[str, Any]
    items: dict[str, tuple[MediaItem, int]]

    kind: ClassVar[MediaKind]

    @classmethod
    def open(cls, root: Path) -> Self:
        """Open the index at `root`. Raises `InputError` if there is none of this kind."""
        cure = f"make one with: copytrace index-{cls.kind} REFERENCES --out {root}"
        provenance, items = read_provenance(root), read_manifest(root)
        if provenance is None or items is None:
            raise InputError(f"{root} is not an index; {cure}")
        if provenance.get("kind", cls.kind) != cls.kind:
            raise InputError(
                f"{root} is an index of {provenance['kind']}, and one of {cls.kind} is needed; {cure}.{cls.kind}"
            )
        return cls(root, provenance, items)

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that hold current rows, ascending."""
        return sorted({shard for _, shard in self.items.values()})

    @property
    def fingerprint(self) -> str:
        """Digest of the provenance and of every item; it does not depend on the order in which the index grew."""
        return digest_of(self.provenance, sorted((i, item.stamp) for i, (item, _) in self.items.items()))

    @property
    def paths(self) -> dict[str, str]:
        """Path of each image or video, by its id."""
        return {identity: item.path for identity, (item, _) in self.items.items()}

    def shard_of(self, identity: str) -> int:
        """Return the number of the shard that holds an image or video."""
        return self.items[identity][1]

    def ids_in(self, shard: int) -> list[str]:
        """Return the ids of the images or videos of a shard, ascending."""
        return sorted(identity for identity, (_, number) in self.items.items() if number == shard)

    def is_current(self, identity: str, shard: int) -> bool:
        """Return whether this shard has the current rows of an image or video."""
        return identity in self.items and self.items[identity][1] == shard


def descriptors_path(root: Path, number: int) -> Path:
    """Return the file of the descriptors of a shard."""
    return root / "descriptors" / f"{number:05}.parquet"


def receipt_path(root: Path, number: int) -> Path:
    """Return the path of a shard's record, which has its cost and its failures."""
    return root / "receipts" / f"{number:05}.json"


def shards_of(root: Path) -> list[int]:
    """Return the numbers of the shards of the finished index at `root`, ascending."""
    return sorted({shard for _, shard in (read_manifest(root) or {}).values()})


def remove_stale_shards(folder: Path, current: Sequence[int]) -> None:
    """Delete from a folder with one file per shard (`00000.parquet`) the files of shards that no longer exist."""
    for path in folder.glob("[0-9]*.*"):
        if int(path.stem) not in current:
            path.unlink(missing_ok=True)


def check_model(index: MediaIndex, model: str) -> None:
    """Raise `ModelMismatchError` unless `model` made the descriptors of `index`."""
    if index.provenance["descriptor"] != model:
        raise ModelMismatchError(
            f"{index.root} was described by {index.provenance['descriptor']}, and the rest by {model}; "
            "index it again, or choose its model"
        )


def is_index(root: Path) -> bool:
    """Return whether a finished index lies at `root`."""
    try:
        return (root / "index.json").is_file() and (root / "manifest.parquet").is_file()
    except StorageError:
        return False  # `root` may be a place of media; listing them says why it cannot be reached


def read_provenance(root: Path) -> dict[str, Any] | None:
    """Return the provenance of the index at `root`, or None if there is no index.

    Raises `InputError` if its `index.json` is damaged.
    """
    path = root / "index.json"
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(provenance, dict):
            raise ValueError("not a table of settings")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged; delete {root} and index again") from error
    return provenance


def read_manifest(root: Path) -> dict[str, tuple[MediaItem, int]] | None:
    """Return the item and the shard of each id in the index at `root`, or None if there is no manifest.

    Raises `InputError` if the manifest is damaged.
    """
    path = root / "manifest.parquet"
    try:
        rows = read_table(path, schema=MANIFEST_SCHEMA).to_pylist()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged; delete {root} and index again") from error
    return {row["id"]: (MediaItem(row["id"], row["path"], row["stamp"]), row["shard"]) for row in rows}


def write_manifest(root: Path, items: dict[str, tuple[MediaItem, int]]) -> Path:
    """Write the manifest of the index at `root`, sorted by id, and return its path."""
    rows = [(*asdict(item).values(), shard) for _, (item, shard) in sorted(items.items())]
    return write_table(root / "manifest.parquet", table_of_rows(rows, MANIFEST_SCHEMA))


def table_of_rows(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return a table of rows that have the columns of `schema`, in their order."""
    return pa.table(list(zip(*rows, strict=True)) if rows else [()] * len(schema), schema=schema)
