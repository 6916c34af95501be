"""Compaction of an index: what was removed from it is erased, and its segments become as few as can be."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from copytrace.checked_files import check_file, checksums_by, open_checked, read_record, write_record
from copytrace.checksums import collect_checksums
from copytrace.errors import DamagedFileError, InputError
from copytrace.index.image_index import ImageIndex
from copytrace.index.image_segments import index_segments as index_image_segments
from copytrace.index.manifest import write_manifest
from copytrace.index.media_index import MediaIndex, read_provenance, receipt_path, remove_other_shards
from copytrace.index.plan_file import plan_path, read_planned_shards
from copytrace.lease import hold_lease
from copytrace.step import current_progress
from copytrace.storage import atomic_path, digest_of, remove_file
from copytrace.tables import open_parquet


def compact_index(root: Path) -> MediaIndex:
    """Erase what was removed from the index at `root`, merge its segments, and return it.

    What matching finds stays the same. Runs that use the index should have ended: the files from which they read are
    deleted. Raises `InputError` if there is no index, and `InUseError` if another run writes into it.
    """
    provenance = read_provenance(root)
    if provenance is None:
        raise InputError(f"{root} is not an index; make one with copytrace index-images or index-videos")
    with hold_lease(root):
        return _compact_videos(root) if provenance.get("kind") == "videos" else _compact_images(root)


def erase_removed(index: MediaIndex) -> int:
    """Write shards that hold removed media again without them, and return how many there were.

    The new manifest takes the place of the old one when all of them are written, and then the old shards are deleted.
    An error, or a killed process, leaves the index as it was, or as it is to be; what it left of shards that the index
    does not hold is deleted by the next compaction.
    """
    root, before = index.root, index.items.as_dict()
    remove_other_shards(root, {*index.shards, *_planned_shards(root)})
    stale = [shard for shard in index.shards if _ids_in_files(root, shard) - set(index.ids_in(shard))]
    if not stale:
        return 0
    states, items = dict(index.items.states), dict(before)
    free = 1 + max(int(path.stem) for path in (root / "receipts").glob("*.json"))
    with current_progress().step("erase what was removed", len(stale), "shards") as shown:
        for number, shard in enumerate(stale, free):
            kept = index.ids_in(shard)
            record = read_record(receipt_path(root, shard))
            with collect_checksums() as written:
                for path in _files(root, shard):
                    check_file(path, receipt_path(root, shard))
                    _write_rows_of(kept, path, path.with_name(f"{number:05}.parquet"))
            checksums = checksums_by(receipt_path(root, number), written)
            state = digest_of("compacted", states.pop(shard), kept)
            damaged = [each for each in record.get("damaged", []) if each["id"] in kept]
            notes = {"fingerprint": state, "failures": [], "damaged": damaged, "checksums": checksums}
            write_record(receipt_path(root, number), record | notes)
            states[number] = state
            items |= {identity: (before[identity][0], number) for identity in kept}
            shown.advance()
    remove_file(plan_path(root))  # its shards are not those of the new manifest
    write_manifest(root, items, dict(sorted(states.items())))
    remove_other_shards(root, states)
    return len(stale)


def _planned_shards(root: Path) -> set[int]:
    """Return the shards of the last plan, some of which may be described, but not yet in the index."""
    try:
        return {shard.number for shard in read_planned_shards(root)[0]}
    except (FileNotFoundError, KeyError, TypeError, DamagedFileError):
        return set()  # there is none, or nobody can use it


def _compact_images(root: Path) -> ImageIndex:
    erase_removed(ImageIndex.open(root))
    index_image_segments(root, merge_all=True)
    return ImageIndex.open(root)


def _compact_videos(root: Path) -> MediaIndex:
    # Here, because images need no FFmpeg.
    from copytrace.index.video_index import VideoIndex  # noqa: PLC0415
    from copytrace.index.video_segments import index_segments as index_video_segments  # noqa: PLC0415

    erase_removed(VideoIndex.open(root))
    index_video_segments(root, merge_all=True)
    return VideoIndex.open(root)


def _files(root: Path, shard: int) -> list[Path]:
    """Return the tables of a shard; each has a column `id`."""
    return [path for path in sorted(root.glob(f"*/{shard:05}.parquet")) if path.parent.name != "overlays"]


def _ids_in_files(root: Path, shard: int) -> set[str]:
    """Return all ids in the tables of a shard; some have only some, as a video may have no frames."""
    found: set[str] = set()
    for path in _files(root, shard):
        with open_checked(path, receipt_path(root, shard)) as file:
            found.update(pc.unique(file.read(columns=["id"]).column("id")).to_pylist())
    return found


def _write_rows_of(ids: Collection[str], path: Path, out: Path) -> None:
    """Write the rows of `path` whose id is among `ids` to `out`, in groups as large as its own."""
    wanted = pa.array(sorted(ids), pa.string())
    with open_parquet(path) as file, atomic_path(out) as temporary:
        metadata = file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        table = file.read()
        column = table.column("id")
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        kept = table.filter(pc.is_in(column, wanted))
        pq.write_table(kept, temporary, compression="zstd", row_group_size=max(sizes, default=0) or None)
