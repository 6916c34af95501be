"""A folder of described media that grows and shrinks: plan what is new, describe it shard by shard, take stock.

    INDEX/index.json          what made it: kind of media, role, settings, digests
    INDEX/manifest.parquet    id, path, stamp, shard of every image or video that is in it
    INDEX/failures.csv        what could not be read, or not to its end
    INDEX/receipts/           a file per shard: what it cost, and what failed
    INDEX/descriptors/, …     files per shard: what was computed

Shards are never changed. A changed file is described again in a new shard, and its rows in the old one are passed
over; a shard of which nothing is left is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa

from copytrace.errors import InputError, ModelMismatchError, StorageError
from copytrace.features.descriptors import Descriptor
from copytrace.media.failures import Failure, write_failures
from copytrace.media.ingest import MediaItem
from copytrace.storage import digest_of, read_stamp, read_table, remove_tree, write_json, write_table

Kind = Literal["images", "videos"]
Role = Literal["queries", "references"]

MANIFEST_SCHEMA = pa.schema([("id", pa.string()), ("path", pa.string()), ("stamp", pa.string()), ("shard", pa.int32())])
PLAN_SCHEMA = MANIFEST_SCHEMA.append(pa.field("kept", pa.bool_()))
MADE_WITH_KEY = b"copytrace.made_with"


@dataclass(frozen=True, slots=True)
class Shard:
    """Media to describe together."""

    number: int
    items: tuple[MediaItem, ...]
    stamp: str


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What an index must do to hold just the media asked for."""

    root: Path
    role: Role
    made_with: dict[str, Any]
    kept: dict[str, tuple[MediaItem, int]]
    shards: tuple[Shard, ...]

    @property
    def total(self) -> int:
        """Media asked for, readable or not."""
        return len(self.kept) + sum(len(shard.items) for shard in self.shards)


def model_label(descriptor: Descriptor) -> str:
    """Name the global descriptor so that a person recognises it, and no two are confused."""
    return f"{descriptor.name} at {descriptor.input_size} px ({descriptor.digest})"


def plan_index(
    items: Sequence[MediaItem], root: Path, made_with: dict[str, Any], *, shard_size: int, replace: bool = False
) -> IndexPlan:
    """Compare the media asked for with those in the index at `root`, and cut the new ones into shards.

    An index made with other settings is an error that says which (`ModelMismatchError`), or starts anew with `replace`.
    """
    before = read_provenance(root)
    if before is not None and before != made_with:
        if not replace:
            raise ModelMismatchError(_difference(root, before, made_with))
        remove_tree(root)
    present = _read_manifest(root) or {}
    wanted = {item.id: item for item in items}
    kept = {i: (wanted[i], shard) for i, (item, shard) in present.items() if wanted.get(i) == item and item.stamp}
    new = [item for item in items if item.id not in kept]
    first = 1 + max((shard for _, shard in present.values()), default=-1)
    shards = []
    for number, start in enumerate(range(0, len(new), shard_size), first):
        shards.append(_shard(number, new[start : start + shard_size], made_with))
    return IndexPlan(root, made_with["role"], made_with, kept, tuple(shards))


def write_plan(plan: IndexPlan) -> Path:
    """Write the plan into the index folder, so that a shard can be described by whoever knows its number."""
    rows = [(*asdict(item).values(), shard, True) for item, shard in plan.kept.values()]
    rows += [(*asdict(item).values(), shard.number, False) for shard in plan.shards for item in shard.items]
    table = _table(rows, PLAN_SCHEMA).replace_schema_metadata({MADE_WITH_KEY: json.dumps(plan.made_with)})
    return write_table(plan.root / "plan.parquet", table)


def read_plan(root: Path) -> IndexPlan:
    """Return the plan written last at `root`."""
    table = read_table(root / "plan.parquet")
    made_with = json.loads(table.schema.metadata[MADE_WITH_KEY])
    kept: dict[str, tuple[MediaItem, int]] = {}
    new: dict[int, list[MediaItem]] = {}
    for row in table.to_pylist():
        item = MediaItem(row["id"], row["path"], row["stamp"])
        if row["kept"]:
            kept[item.id] = (item, row["shard"])
        else:
            new.setdefault(row["shard"], []).append(item)
    shards = tuple(_shard(number, items, made_with) for number, items in new.items())
    return IndexPlan(root, made_with["role"], made_with, kept, shards)


def read_planned_shard(root: Path, number: int) -> tuple[Shard, dict[str, Any]]:
    """Return one shard of the plan at `root` and what its index is made with, without going through the others."""
    chosen = [("shard", "==", number), ("kept", "==", False)]
    table = read_table(root / "plan.parquet", columns=["id", "path", "stamp"], filters=chosen)
    made_with = json.loads(table.schema.metadata[MADE_WITH_KEY])
    return _shard(number, [MediaItem(**row) for row in table.to_pylist()], made_with), made_with


def descriptors_path(root: Path, number: int) -> Path:
    """Where the descriptors of a shard lie; they are written last, so a shard that has them is whole."""
    return root / "descriptors" / f"{number:05}.parquet"


def receipt_path(root: Path, number: int) -> Path:
    """Where it stands what a shard cost, and what of it failed."""
    return root / "receipts" / f"{number:05}.json"


def is_done(root: Path, shard: Shard) -> bool:
    """Say whether an earlier run described this very shard."""
    return receipt_path(root, shard.number).exists() and read_stamp(descriptors_path(root, shard.number)) == shard.stamp


def remove_shard(root: Path, number: int) -> None:
    """Delete the files of a shard, its receipt first: what is left of it then counts for nothing."""
    receipt_path(root, number).unlink(missing_ok=True)
    for path in root.glob(f"*/{number:05}.*"):
        path.unlink(missing_ok=True)


def remove_stale_shards(folder: Path, live: Sequence[int]) -> None:
    """Delete from a folder with a file for each shard, as `00000.parquet`, those of shards that are no more."""
    for path in folder.glob("[0-9]*.*"):
        if int(path.stem) not in live:
            path.unlink(missing_ok=True)


def finish_index(plan: IndexPlan) -> list[Failure]:
    """Write the manifest and `failures.csv`, delete what is gone, and return the media that could not be read.

    Those that were read in part are listed too, and stay in the index.
    """
    rows = dict(plan.kept)
    failures: list[Failure] = []
    damaged: list[Failure] = []
    for shard in plan.shards:
        entry = json.loads(receipt_path(plan.root, shard.number).read_text(encoding="utf-8"))
        failed = [Failure(**failure) for failure in entry["failures"]]
        failures += failed
        damaged += [Failure(**failure) for failure in entry.get("damaged", [])]
        unread = {failure.id for failure in failed}
        rows |= {item.id: (item, shard.number) for item in shard.items if item.id not in unread}
    write_failures(plan.root / "failures.csv", [*failures, *damaged])
    ordered = [(*asdict(item).values(), shard) for _, (item, shard) in sorted(rows.items())]
    # The settings first: rows must never stand beside settings that did not make them.
    write_json(plan.root / "index.json", plan.made_with)
    write_table(plan.root / "manifest.parquet", _table(ordered, MANIFEST_SCHEMA))
    live = {shard for _, shard in rows.values()}
    for receipt in (plan.root / "receipts").glob("*.json"):
        if int(receipt.stem) not in live:
            remove_shard(plan.root, int(receipt.stem))
    return failures


@dataclass(frozen=True, slots=True)
class MediaIndex:
    """A finished index, read shard by shard."""

    root: Path
    made_with: dict[str, Any]
    items: dict[str, tuple[MediaItem, int]]

    kind: ClassVar[Kind]

    @classmethod
    def open(cls, root: Path) -> Self:
        """Open the index at `root`. Raises `InputError` where there is none of this kind."""
        make = f"make one with: copytrace index-{cls.kind} REFERENCES --out {root}"
        made_with, items = read_provenance(root), _read_manifest(root)
        if made_with is None or items is None:
            raise InputError(f"{root} is not an index; {make}")
        if made_with.get("kind", cls.kind) != cls.kind:
            raise InputError(
                f"{root} is an index of {made_with['kind']}, and one of {cls.kind} is needed; {make}.{cls.kind}"
            )
        return cls(root, made_with, items)

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that hold something."""
        return sorted({shard for _, shard in self.items.values()})

    @property
    def stamp(self) -> str:
        """Changes when anything in the index does, but not with the order in which it was built."""
        return digest_of(self.made_with, sorted((i, item.stamp) for i, (item, _) in self.items.items()))

    @property
    def paths(self) -> dict[str, str]:
        """The path of each image or video, by its id."""
        return {identity: item.path for identity, (item, _) in self.items.items()}

    def lives(self, identity: str, shard: int) -> bool:
        """Say whether the rows that a shard has of an image or video still count."""
        return identity in self.items and self.items[identity][1] == shard


def check_model(index: MediaIndex, model: str) -> None:
    """Raise `ModelMismatchError` unless the descriptors of `index` are by `model`."""
    if index.made_with["descriptor"] != model:
        raise ModelMismatchError(
            f"{index.root} was described by {index.made_with['descriptor']}, and the rest by {model}; "
            "index it again, or choose its model"
        )


def check_unchanged(root: Path, what: str, planned: object, found: object) -> None:
    """Raise `ModelMismatchError` if a model is not the one that an index was planned with."""
    # A champion may move, or a file be replaced, between the planning of a shard and its turn.
    if planned != found:
        raise ModelMismatchError(
            f"{root} was planned with the {what} {planned}, which is now {found}; run the same command again to start "
            "anew with that, or name a version instead of an alias"
        )


def is_index(root: Path) -> bool:
    """Say whether a finished index lies at `root`."""
    try:
        return (root / "index.json").is_file() and (root / "manifest.parquet").is_file()
    except StorageError:
        return False  # it may be media, and listing them tells why it cannot be reached


def read_provenance(root: Path) -> dict[str, Any] | None:
    """Return what the index at `root` was made with, None where is none.

    Raises `InputError` if its `index.json` is damaged.
    """
    path = root / "index.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("not a table of settings")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged; delete {root} and index again") from error
    return settings


def _shard(number: int, items: Sequence[MediaItem], made_with: dict[str, Any]) -> Shard:
    return Shard(number, tuple(items), digest_of(made_with, [asdict(item) for item in items]))


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.table(list(zip(*rows, strict=True)) if rows else [()] * len(schema), schema=schema)


def _read_manifest(root: Path) -> dict[str, tuple[MediaItem, int]] | None:
    path = root / "manifest.parquet"
    try:
        rows = read_table(path, schema=MANIFEST_SCHEMA).to_pylist()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged; delete {root} and index again") from error
    return {row["id"]: (MediaItem(row["id"], row["path"], row["stamp"]), row["shard"]) for row in rows}


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _difference(root: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    there, here = _flat(before), _flat(now)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    told = "; ".join(f"{name} {there.get(name)} there, {here.get(name)} now" for name in names)
    return f"the index {root} was made otherwise: {told}. Use the same settings, or index into another folder"
