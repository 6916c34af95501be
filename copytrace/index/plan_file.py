"""The plan of an index: the media that it keeps, and shards of those that are to be described.

    INDEX/plan.parquet    the columns of a manifest; `kept`; and the fingerprint of the shard, of those not kept

It is written before media are described, so that any process can describe a shard by its number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from copytrace.checked_files import read_sealed, seal
from copytrace.index.manifest import ITEM_SCHEMA, MANIFEST_SCHEMA, item_values
from copytrace.media.files import MediaItem
from copytrace.storage import digest_of
from copytrace.tables import table_of_rows, write_table

PLAN_SCHEMA = MANIFEST_SCHEMA.append(pa.field("kept", pa.bool_())).append(pa.field("fingerprint", pa.string()))
PROVENANCE_KEY = b"copytrace.provenance"


@dataclass(frozen=True, slots=True)
class Shard:
    """Media that are described together; `fingerprint` covers them and the provenance of their index."""

    number: int
    items: tuple[MediaItem, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The media that an index keeps and the shards that it needs, to hold exactly the requested media."""

    root: Path
    provenance: dict[str, Any]
    kept: dict[str, tuple[MediaItem, int]]
    shards: tuple[Shard, ...]

    @property
    def role(self) -> str:
        """Role of the media: queries or references."""
        return str(self.provenance["role"])

    @property
    def total(self) -> int:
        """Number of requested files, readable or not."""
        return len(self.kept) + sum(len(shard.items) for shard in self.shards)


def plan_path(root: Path) -> Path:
    """Return the file of the plan of the index at `root`."""
    return root / "plan.parquet"


def write_plan(plan: IndexPlan) -> Path:
    """Write the plan into the index folder, so that any process can describe a shard by its number."""
    rows = [(*item_values(item), shard, True, "") for item, shard in plan.kept.values()]
    rows += [
        (*item_values(item), shard.number, False, shard.fingerprint) for shard in plan.shards for item in shard.items
    ]
    table = table_of_rows(rows, PLAN_SCHEMA).replace_schema_metadata({PROVENANCE_KEY: json.dumps(plan.provenance)})
    return write_table(plan_path(plan.root), seal(table))


def read_plan(root: Path) -> IndexPlan:
    """Return the plan that was last written at `root`."""
    table = read_sealed(plan_path(root))
    is_kept = table.column("kept")
    kept = table.filter(is_kept)
    items = zip(_items_of(kept), kept.column("shard").to_pylist(), strict=True)
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    shards = _shards_of(table.filter(pc.invert(is_kept)), provenance)
    return IndexPlan(root, provenance, {item.id: (item, shard) for item, shard in items}, tuple(shards))


def read_planned_shards(root: Path) -> tuple[list[Shard], dict[str, Any]]:
    """Return the shards of the plan at `root` and the provenance of its index, without what is kept."""
    return _read_shards(root)


def read_planned_shard(root: Path, number: int) -> tuple[Shard, dict[str, Any]]:
    """Return one shard of the plan at `root` and the provenance of its index, without reading the other shards."""
    (shard,), provenance = _read_shards(root, number)
    return shard, provenance


def new_shard(number: int, items: Sequence[MediaItem], provenance: dict[str, Any]) -> Shard:
    """Return a shard of media that are not described yet, of an index with this provenance."""
    described = [{"id": item.id, "path": item.path, "stamp": item.stamp} for item in items]
    return Shard(number, tuple(items), digest_of(provenance, described))


def _read_shards(root: Path, number: int | None = None) -> tuple[list[Shard], dict[str, Any]]:
    table = read_sealed(plan_path(root))
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    table = table.filter(pc.invert(table.column("kept")))
    if number is not None:
        table = table.filter(pc.equal(table.column("shard"), number))
    return _shards_of(table, provenance), provenance


def _shards_of(table: pa.Table, provenance: dict[str, Any]) -> list[Shard]:
    """Return the shards in rows that are not kept."""
    items: dict[int, list[MediaItem]] = {}
    numbers = table.column("shard").to_pylist()
    for item, number in zip(_items_of(table), numbers, strict=True):
        items.setdefault(number, []).append(item)
    shards = [new_shard(number, part, provenance) for number, part in items.items()]
    if "fingerprint" not in table.column_names:  # a plan of version 0.1.0
        return shards
    fingerprints = dict(zip(numbers, table.column("fingerprint").to_pylist(), strict=True))
    return [replace(shard, fingerprint=fingerprints[shard.number]) for shard in shards]


def _items_of(table: pa.Table) -> list[MediaItem]:
    names = [name for name in ITEM_SCHEMA.names if name in table.column_names]  # version 0.1.0 wrote no contents
    return list(map(MediaItem, *(table.column(name).to_pylist() for name in names)))
