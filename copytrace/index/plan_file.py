"""The plan of an index: the media that it keeps, and shards of those that are to be described.

    INDEX/plan.parquet    the columns of a manifest; `kept`; and the fingerprint of the shard, of those not kept

It is written before media are described, so that any process can describe a shard by its number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from copytrace.index.manifest import ITEM_SCHEMA, MANIFEST_SCHEMA, item_values
from copytrace.media.files import MediaItem
from copytrace.storage import digest_of, read_table, table_of_rows, write_table

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
    return write_table(plan_path(plan.root), table)


def read_plan(root: Path) -> IndexPlan:
    """Return the plan that was last written at `root`."""
    table = read_table(plan_path(root))
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    kept: dict[str, tuple[MediaItem, int]] = {}
    new: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["kept"]:
            kept[row["id"]] = (_item_of(row), row["shard"])
        else:
            new.setdefault(row["shard"], []).append(row)
    shards = tuple(_planned_shard(number, rows, provenance) for number, rows in new.items())
    return IndexPlan(root, provenance, kept, shards)


def read_planned_shard(root: Path, number: int) -> tuple[Shard, dict[str, Any]]:
    """Return one shard of the plan at `root` and the provenance of its index, without reading the other shards."""
    table = read_table(plan_path(root), filters=[("shard", "==", number), ("kept", "==", False)])
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    return _planned_shard(number, table.to_pylist(), provenance), provenance


def new_shard(number: int, items: Sequence[MediaItem], provenance: dict[str, Any]) -> Shard:
    """Return a shard of media that are not described yet, of an index with this provenance."""
    described = [{"id": item.id, "path": item.path, "stamp": item.stamp} for item in items]
    return Shard(number, tuple(items), digest_of(provenance, described))


def _planned_shard(number: int, rows: Sequence[dict[str, Any]], provenance: dict[str, Any]) -> Shard:
    shard = new_shard(number, [_item_of(row) for row in rows], provenance)
    fingerprints = {row["fingerprint"] for row in rows if "fingerprint" in row}  # 0.1.0 wrote none
    return replace(shard, fingerprint=fingerprints.pop()) if fingerprints else shard


def _item_of(row: Mapping[str, Any]) -> MediaItem:
    return MediaItem(*(row.get(name, "") for name in ITEM_SCHEMA.names))
