"""An index: a folder of described images or videos, which is read shard by shard.

    INDEX/index.json          its provenance: kind of media, role, settings, digests of models
    INDEX/manifest.parquet    id, path, stamp, content and shard of every image or video in it
    INDEX/failures.csv        the files that could not be read, or not to their end; see `odd_files` for other lists
    INDEX/receipts/           the record of each shard, with its cost and its failures
    INDEX/descriptors/, …     a file per shard: its content
    INDEX/.lease/             which run writes into it; see `lease`

Shards never change. A file that changed is described again in a new shard, and its rows in the old one are ignored; a
shard without current rows is deleted.

To build an index, new or not, a plan lists the media that it must hold: those that it holds already, and the shards
into which the others are cut. `image_index` and `video_index` describe the shards; `finish_index` writes the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from configs.images import UNSET_POINTS
from configs.load import flatten
from configs.settings import KnownBy
from copytrace.checked_files import read_record, write_record
from copytrace.errors import DamagedFileError, InputError, ModelMismatchError, StorageError
from copytrace.index.changes import find_unchanged
from copytrace.index.manifest import Manifest, read_manifest, write_manifest
from copytrace.index.odd_files import check_media, gather_odd_files, noted_failures, write_odd_files
from copytrace.index.plan_file import IndexPlan, Shard, new_shard, read_plan, read_planned_shards
from copytrace.lease_files import FOLDER as LEASE
from copytrace.media.failures import Failure
from copytrace.media.files import MediaItem
from copytrace.storage import digest_of, remove_file, remove_tree

MediaKind = Literal["images", "videos"]
Role = Literal["queries", "references"]

_POINTS = "local."  # before the names of settings of points
_NOT_BY_SHARD = {"segments", "given_up", LEASE}  # folders whose files are not named by the numbers of shards

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MediaIndex:
    """A finished index; `items` has the media item and the shard of each id."""

    root: Path
    provenance: dict[str, Any]
    items: Manifest

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
        return self.items.shards

    @property
    def fingerprint(self) -> str:
        """Digest of the provenance and of every item; it does not depend on the order in which the index grew."""
        return digest_of(self.provenance, self.items.digest)

    @property
    def paths(self) -> Mapping[str, str]:
        """Path of each image or video, by its id."""
        return self.items.paths

    def shard_of(self, identity: str) -> int:
        """Return the number of the shard that holds an image or video."""
        return self.items[identity][1]

    def ids_in(self, shard: int) -> list[str]:
        """Return the ids of the images or videos of a shard, ascending."""
        return self.items.ids_in(shard)

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
    manifest = read_manifest(root)
    return manifest.shards if manifest else []


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

    Raises `DamagedFileError` if its `index.json` is damaged.
    """
    return read_record(root / "index.json") or None


def plan_index(
    items: Sequence[MediaItem],
    root: Path,
    provenance: dict[str, Any],
    *,
    shard_size: int,
    is_described: Callable[[Shard], bool],
    replace: bool = False,
    known_by: KnownBy = "status",
) -> IndexPlan:
    """Compare the requested media with those in the index at `root`, and cut the new and changed ones into shards.

    `known_by` says by what a file is known to be unchanged, wherever it lies now; see `find_unchanged`. Shards that an
    earlier run described, but did not put into the index because it was stopped, stay as they are, whichever media have
    been added since. If the index has another provenance, it is deleted with `replace`; otherwise
    `ModelMismatchError`, which names the differences, is raised.
    """
    before = read_provenance(root)
    if before is not None and before != provenance:
        if not replace:
            raise ModelMismatchError(
                f"the index {root} was made with other settings: {_difference(before, provenance)}. "
                f"{_cure(before, provenance)}, or index into another folder"
            )
        logger.warning(
            "%s was made with other settings (%s), so all %s are described again",
            *(root, _difference(before, provenance), provenance.get("role", "media")),
        )
        _clear(root)
    manifest = (read_manifest(root) if before == provenance else None) or Manifest.of({}, {})
    wanted = {item.id: item for item in items}
    stopped = [shard for shard in _stopped_shards(root, provenance, manifest) if is_described(shard)]
    finished = [shard for shard in (_refresh(root, shard, wanted, known_by) for shard in stopped) if shard]
    held = {item.id for shard in finished for item in shard.items}
    media = manifest.media()
    unchanged = find_unchanged(media, wanted, known_by)
    kept = {
        item.id: (unchanged[item.id], shard)
        for item, shard in zip(media, manifest.shard_numbers.tolist(), strict=True)
        if item.id in unchanged and item.id not in held
    }
    new = [item for item in items if item.id not in kept and item.id not in held]
    taken = [*manifest.shards, *(shard.number for shard in finished)]
    shards = [
        new_shard(number, new[start : start + shard_size], provenance)
        for number, start in enumerate(range(0, len(new), shard_size), 1 + max(taken, default=-1))
    ]
    return IndexPlan(root, provenance, kept, (*finished, *shards))


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

    Then raises `InputError` if there are no media, and `TooManyFailuresError` if more than the share `max_failure_rate`
    (0 to 1) of them failed.
    """
    plan = read_plan(root)
    left_out = write_index(plan)
    gather_odd_files(indexes, failures)
    what = f"{plan.provenance.get('kind', 'files')} among the {plan.role}"
    check_media(plan.total, left_out, max_failure_rate, failures, what)
    return root


def write_index(plan: IndexPlan) -> list[Failure]:
    """Write provenance, manifest and lists of odd files of a plan whose shards are described; return what is left out.

    Media that were read in part stay in the index, and are listed in `failures.csv` by each run, but not returned.
    Shards without current rows are deleted.
    """
    items = dict(plan.kept)
    left_out: list[Failure] = []
    held = {shard for _, shard in items.values()} | {shard.number for shard in plan.shards}
    records = {shard: read_record(receipt_path(plan.root, shard)) for shard in sorted(held)}
    for shard in plan.shards:
        unread = noted_failures(records[shard.number], "failures")
        left_out += [replace(unread[item.id], path=item.path) for item in shard.items if item.id in unread]
        contents = records[shard.number].get("contents", {})
        described = [replace(item, content=item.content or contents.get(item.id, "")) for item in shard.items]
        items |= {item.id: (item, shard.number) for item in described if item.id not in unread}
    current = {shard for _, shard in items.values()}
    damaged = [
        replace(failure, path=items[identity][0].path)
        for shard in sorted(current)
        for identity, failure in noted_failures(records[shard], "damaged").items()
        if identity in items and items[identity][1] == shard
    ]
    write_odd_files(plan.root, [*left_out, *damaged])
    # Provenance first: a manifest must never stand beside the provenance of another index.
    write_record(plan.root / "index.json", plan.provenance)
    write_manifest(plan.root, items, {shard: str(records[shard].get("fingerprint")) for shard in sorted(current)})
    remove_other_shards(plan.root, current)
    return left_out


def remove_shard(root: Path, number: int) -> None:
    """Delete the files of a shard, its receipt first: files without a receipt do not count."""
    remove_file(receipt_path(root, number))
    for path in root.glob(f"*/{number:05}.*"):
        remove_file(path)


def remove_other_shards(root: Path, kept: Collection[int]) -> None:
    """Delete the files of all shards that are not `kept`, also what is left of one whose deletion was stopped."""
    files = (path for path in root.glob("*/*.*") if path.parent.name not in _NOT_BY_SHARD)
    for number in sorted({int(path.stem) for path in files if path.stem.isdecimal()} - {*kept}):
        remove_shard(root, number)


def _clear(root: Path) -> None:
    """Delete an index, its provenance last, so that nobody takes what a killed run leaves of it for another index's."""
    remove_file(root / "manifest.parquet")
    for path in root.iterdir():
        if path.name in {LEASE, "index.json"}:
            continue
        if path.is_dir():
            remove_tree(path)
        else:
            remove_file(path)
    remove_file(root / "index.json")


def _stopped_shards(root: Path, provenance: dict[str, Any], manifest: Manifest) -> list[Shard]:
    """Return the shards of the last plan at `root` that the index does not hold, because the run was stopped."""
    try:
        planned, made_with = read_planned_shards(root)
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError, DamagedFileError):
        return []  # there is none, or it is damaged or of an older version; then all is planned anew
    held = set(manifest.shards)
    return [shard for shard in planned if made_with == provenance and shard.number not in held]


def _refresh(root: Path, shard: Shard, wanted: Mapping[str, MediaItem], known_by: KnownBy) -> Shard | None:
    """Return a described shard with the paths and stamps that its media have now; None if any of them changed."""
    contents = read_record(receipt_path(root, shard.number)).get("contents", {})
    held = [replace(item, content=item.content or contents.get(item.id, "")) for item in shard.items]
    unchanged = find_unchanged(held, wanted, known_by)
    if len(unchanged) < len(held):
        return None
    return replace(shard, items=tuple(unchanged[item.id] for item in held))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    there, here = _settings_of(before), _settings_of(now)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return "; ".join(
        f"{name} is {there.get(name, 'not set')} there and {here.get(name, 'not set')} now" for name in names
    )


def _cure(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what to do to go on with an index: the settings of points that it was made with, if these are all."""
    there, here = _settings_of(before), _settings_of(now)
    names = sorted(name for name in there if there[name] != here.get(name))
    if there.keys() == here.keys() and all(name.startswith(_POINTS) for name in names):
        return f"Give {' '.join(f'{name}={there[name]}' for name in names)} to add to it"
    return "Use the same settings"


def _settings_of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provenance by the names of settings, with those of points that it lacks as they were before."""
    known = dict(provenance)
    points = dict(known.pop("points", {}))
    known |= {"opencv": points.pop("opencv")} if "opencv" in points else {}
    points = {name: UNSET_POINTS | values for name, values in points.items()}
    return flatten(known) | flatten(points, _POINTS)
