"""Building of an index, new or not: plan it, describe its new shards, finish it.

A plan lists the media that the index must hold: those that it holds already, and the shards into which the others are
cut. `image_shards` and `video_shards` describe the shards; `finish_index` writes the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.load import flatten
from copytrace.errors import ModelMismatchError
from copytrace.index.media_index import (
    MANIFEST_SCHEMA,
    Role,
    read_manifest,
    read_provenance,
    receipt_path,
    table_of_rows,
    write_manifest,
)
from copytrace.media.failures import Failure, check_failure_rate, gather_failures, write_failures
from copytrace.media.ingest import MediaItem
from copytrace.storage import digest_of, read_table, remove_tree, write_json, write_table

PLAN_SCHEMA = MANIFEST_SCHEMA.append(pa.field("kept", pa.bool_()))
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
    def role(self) -> Role:
        """Role of the media: queries or references."""
        role: Role = self.provenance["role"]
        return role

    @property
    def total(self) -> int:
        """Number of requested media, readable or not."""
        return len(self.kept) + sum(len(shard.items) for shard in self.shards)


def plan_index(
    items: Sequence[MediaItem], root: Path, provenance: dict[str, Any], *, shard_size: int, replace: bool = False
) -> IndexPlan:
    """Compare the requested media with those in the index at `root`, and cut the new ones into shards.

    If the index has another provenance, it is deleted with `replace`; otherwise `ModelMismatchError`, which names the
    differences, is raised.
    """
    before = read_provenance(root)
    if before is not None and before != provenance:
        if not replace:
            raise ModelMismatchError(_difference(root, before, provenance))
        remove_tree(root)
    present = read_manifest(root) or {}
    wanted = {item.id: item for item in items}
    kept = {i: (wanted[i], shard) for i, (item, shard) in present.items() if wanted.get(i) == item and item.stamp}
    new = [item for item in items if item.id not in kept]
    first = 1 + max((shard for _, shard in present.values()), default=-1)
    shards = [
        _shard(number, new[start : start + shard_size], provenance)
        for number, start in enumerate(range(0, len(new), shard_size), first)
    ]
    return IndexPlan(root, provenance, kept, tuple(shards))


def write_plan(plan: IndexPlan) -> Path:
    """Write the plan into the index folder, so that any process can describe a shard by its number."""
    rows = [(*asdict(item).values(), shard, True) for item, shard in plan.kept.values()]
    rows += [(*asdict(item).values(), shard.number, False) for shard in plan.shards for item in shard.items]
    table = table_of_rows(rows, PLAN_SCHEMA).replace_schema_metadata({PROVENANCE_KEY: json.dumps(plan.provenance)})
    return write_table(_plan_path(plan.root), table)


def read_plan(root: Path) -> IndexPlan:
    """Return the plan that was last written at `root`."""
    table = read_table(_plan_path(root))
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    kept: dict[str, tuple[MediaItem, int]] = {}
    new: dict[int, list[MediaItem]] = {}
    for row in table.to_pylist():
        item = MediaItem(row["id"], row["path"], row["stamp"])
        if row["kept"]:
            kept[item.id] = (item, row["shard"])
        else:
            new.setdefault(row["shard"], []).append(item)
    shards = tuple(_shard(number, items, provenance) for number, items in new.items())
    return IndexPlan(root, provenance, kept, shards)


def read_planned_shard(root: Path, number: int) -> tuple[Shard, dict[str, Any]]:
    """Return one shard of the plan at `root` and the provenance of its index, without reading the other shards."""
    chosen = [("shard", "==", number), ("kept", "==", False)]
    table = read_table(_plan_path(root), columns=["id", "path", "stamp"], filters=chosen)
    provenance = json.loads(table.schema.metadata[PROVENANCE_KEY])
    return _shard(number, [MediaItem(**row) for row in table.to_pylist()], provenance), provenance


def check_unchanged(root: Path, what: str, planned: object, found: object) -> None:
    """Raise `ModelMismatchError` if a model is not the one that the index was planned with."""
    # A champion may be promoted, or a file replaced, after a shard was planned and before it is described.
    if planned != found:
        raise ModelMismatchError(
            f"{root} was planned with the {what} {planned}, which is now {found}; run the same command again to start "
            "over with that, or name a version instead of an alias"
        )


def finish_index(root: Path, failures: Path, indexes: Sequence[Path], max_failure_rate: float) -> Path:
    """Write the manifest of the index at `root`, and the failures of all `indexes` to `failures`; return `root`.

    Then raises `TooManyFailuresError` if more than the share `max_failure_rate` (0 to 1) failed.
    """
    plan = read_plan(root)
    failed = write_index(plan)
    gather_failures([index / "failures.csv" for index in indexes], failures)
    check_failure_rate(len(failed), plan.total, max_failure_rate, failures)
    return root


def write_index(plan: IndexPlan) -> list[Failure]:
    """Write provenance, manifest and `failures.csv` of a plan whose shards are described; return the failures.

    Media that were read in part stay in the index, and are listed in `failures.csv` but not returned. Shards without
    current rows are deleted.
    """
    items = dict(plan.kept)
    failures: list[Failure] = []
    damaged: list[Failure] = []
    for shard in plan.shards:
        receipt = json.loads(receipt_path(plan.root, shard.number).read_text(encoding="utf-8"))
        failed = [Failure(**failure) for failure in receipt["failures"]]
        failures += failed
        damaged += [Failure(**failure) for failure in receipt.get("damaged", [])]
        unread = {failure.id for failure in failed}
        items |= {item.id: (item, shard.number) for item in shard.items if item.id not in unread}
    write_failures(plan.root / "failures.csv", [*failures, *damaged])
    # Provenance first: a manifest must never stand beside the provenance of another index.
    write_json(plan.root / "index.json", plan.provenance)
    write_manifest(plan.root, items)
    current = {shard for _, shard in items.values()}
    for receipt_file in (plan.root / "receipts").glob("*.json"):
        if int(receipt_file.stem) not in current:
            remove_shard(plan.root, int(receipt_file.stem))
    return failures


def remove_shard(root: Path, number: int) -> None:
    """Delete the files of a shard, its receipt first: files without a receipt do not count."""
    receipt_path(root, number).unlink(missing_ok=True)
    for path in root.glob(f"*/{number:05}.*"):
        path.unlink(missing_ok=True)


def _plan_path(root: Path) -> Path:
    return root / "plan.parquet"


def _shard(number: int, items: Sequence[MediaItem], provenance: dict[str, Any]) -> Shard:
    return Shard(number, tuple(items), digest_of(provenance, [asdict(item) for item in items]))


def _difference(root: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    there, here = flatten(before), flatten(now)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    listed = "; ".join(f"{name} is {there.get(name)} there and {here.get(name)} now" for name in names)
    return (
        f"the index {root} was made with other settings: {listed}. Use the same settings, or index into another folder"
    )
