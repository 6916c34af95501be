"""Verification of an index, or of the output folder of a run: each file against its checksums, and what repairs it.

A repair deletes what is damaged, and nothing else, so that the command that made the folder makes only that again: a
shard of an index with its media, a segment, or the output of a step. Media of a shard that was dropped are not in the
index until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from copytrace.checked_files import check_file, damage_errors, files_of, read_sealed
from copytrace.errors import DamagedFileError, InputError
from copytrace.index.manifest import read_manifest, write_manifest
from copytrace.index.media_index import receipt_path, remove_shard
from copytrace.index.segments import drop_segments
from copytrace.lease_files import FOLDER as LEASE
from copytrace.media.folders import WORK
from copytrace.storage import files_below, remove_file
from copytrace.tables import open_parquet

SEALED = ("manifest.parquet", "plan.parquet")


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is missing or damaged, in an index `root` or, if that is None, in the folder of a run."""

    path: Path
    what: str
    root: Path | None

    @property
    def shard(self) -> int | None:
        """The number of the shard of an index that the file belongs to; None if it belongs to none."""
        is_of_shard = self.root is not None and self.path.parent.name != "segments" and self.path.stem.isdecimal()
        return int(self.path.stem) if is_of_shard else None

    @property
    def cure(self) -> str:
        """What is to be done, in a few words."""
        if self.shard is not None:
            return f"shard {self.shard} is to be described again"
        if self.path.parent.name == "segments" and self.root:
            return "the segment is to be made again"
        return "it is to be written again"


def find_damage(root: Path) -> list[Damage]:
    """Return what is damaged in an index or in the output folder of a run, by reading all of it once.

    Files that an older version wrote without checksums are only tried to be read. Raises `InputError` if `root` is
    neither.
    """
    indexes = [folder for folder in folders_of(root) if _is_index(folder)]
    damages = [damage for index in indexes for damage in _verify(index, index)]
    return damages if root in indexes else [*damages, *_verify(root, None, without=indexes)]


def folders_of(root: Path) -> list[Path]:
    """Return the folders that a run which makes `root` holds: an index alone, or the folder of a run and its indexes.

    Raises `InputError` if `root` is neither.
    """
    if _is_index(root):
        return [root]
    if not (root / WORK).is_dir():
        raise InputError(f"{root} is neither an index nor the output folder of a run; give one of these")
    return [root, *(folder for folder in (root / WORK / "queries", root / WORK / "references") if _is_index(folder))]


def _is_index(root: Path) -> bool:
    return any((root / name).is_file() for name in ("index.json", *SEALED))


def delete_damaged(damages: Sequence[Damage]) -> None:
    """Delete damaged files, and what an index holds of their shards and segments.

    Hold the leases of `folders_of(root)` from before `find_damage` until the end, so that no run writes meanwhile.
    """
    for root in {damage.root for damage in damages if damage.root is not None}:
        of_index = [damage for damage in damages if damage.root == root]
        _drop_shards(root, {damage.shard for damage in of_index if damage.shard is not None})
        drop_segments(root, {damage.path.stem for damage in of_index if damage.path.parent.name == "segments"})
    for damage in damages:
        if damage.shard is None:
            remove_file(damage.path)  # a step without its record or one of its outputs is done again


def _drop_shards(root: Path, shards: set[int]) -> None:
    """Take shards out of an index; the manifest goes first, so that it never names what is gone."""
    try:
        manifest = read_manifest(root)
    except DamagedFileError:
        manifest = None  # it is damaged too, and is deleted
    if manifest and shards:
        kept = {identity: held for identity, held in manifest.as_dict().items() if held[1] not in shards}
        states = {shard: state for shard, state in manifest.states.items() if shard not in shards}
        write_manifest(root, kept, states)
    for shard in shards:
        remove_shard(root, shard)


def _verify(folder: Path, index: Path | None, without: Iterable[Path] = ()) -> Iterator[Damage]:
    """Yield the damage in a folder; files of the indexes `without` are left out."""
    left_out = tuple(f"{each}/" for each in (*without, folder / LEASE))
    files = [path for path in files_below(folder) if not str(path).startswith(left_out)]
    told: set[Path] = set()
    named: set[Path] = set()
    for record in (path for path in files if path.suffix == ".json"):
        try:
            of_record = files_of(record)
        except DamagedFileError:
            told.add(record)
            yield Damage(record, "damaged", index)
            continue
        for path in of_record:
            named.add(path)
            if (what := _damage(path, record)) and path not in told:
                told.add(path)
                yield Damage(path, what, index)
    for path in files:
        if path.suffix == ".parquet" and path not in named and path not in told and _is_unreadable(path):
            yield Damage(path, "damaged", index)
    yield from (Damage(path, "missing", index) for path in _records_needed(index) if path not in files)


def _records_needed(index: Path | None) -> list[Path]:
    """Return the records without which what the manifest of an index names is nothing."""
    try:
        manifest = read_manifest(index) if index else None
    except DamagedFileError:
        return []
    if index is None or manifest is None:
        return []
    return [index / "index.json", *(receipt_path(index, shard) for shard in manifest.shards)]


def _damage(path: Path, record: Path) -> str:
    """Return what is wrong with a file that a record names; "" if nothing is."""
    try:
        check_file(path, record)
    except DamagedFileError as error:
        return error.what
    return ""


def _is_unreadable(path: Path) -> bool:
    try:
        if path.name in SEALED:
            read_sealed(path)
        else:
            with damage_errors(path, None), open_parquet(path) as file:
                for group in range(file.metadata.num_row_groups):
                    file.read_row_group(group)
    except DamagedFileError:
        return True
    return False
