"""Thumbnails for the shards of an index of images that an older version described without them."""

from __future__ import annotations

from pathlib import Path

from configs.images import ImageSettings
from copytrace.checked_files import checksums_by, read_record, write_record
from copytrace.checksums import collect_checksums
from copytrace.errors import MediaError
from copytrace.features.points import Bytes
from copytrace.features.thumbnails import thumbnail
from copytrace.index.given_up import GivenUpFiles
from copytrace.index.image_index import ShardPaths
from copytrace.index.image_reading import decode_item, load_in_threads
from copytrace.index.plan_file import read_plan
from copytrace.index.shard_files import has_thumbnails, write_thumbnails
from copytrace.step import current_progress
from copytrace.storage import digest_of, file_size


def shards_without_thumbnails(root: Path) -> list[int]:
    """Return the numbers of the shards without thumbnails that the planned index at `root` keeps, ascending."""
    kept = sorted({shard for _, shard in read_plan(root).kept.values()})
    paths = [ShardPaths.of(root, shard) for shard in kept]
    return [shard for shard, each in zip(kept, paths, strict=True) if not has_thumbnails(each.thumbnails, each.receipt)]


def add_thumbnails(root: Path, shard: int, settings: ImageSettings) -> Path:
    """Write the thumbnails of the images that the planned index at `root` keeps in a shard, and return its receipt.

    The fingerprint in the receipt changes, and so do the segments that hold the shard when the index is finished. An
    image that cannot be read now stays without a thumbnail.
    """
    paths = ShardPaths.of(root, shard)
    if has_thumbnails(paths.thumbnails, paths.receipt):
        return paths.receipt
    record = read_record(paths.receipt)
    items = [item for item, number in read_plan(root).kept.values() if number == shard]
    found: dict[str, Bytes] = {}
    load = GivenUpFiles(root, settings.media).guard(lambda item: thumbnail(decode_item(item, settings).pixels))
    with current_progress().step("add thumbnails", len(items), "images") as shown, collect_checksums() as written:
        for item, small in load_in_threads(items, load, settings):
            if not isinstance(small, MediaError):
                found[item.id] = small
            shown.advance()
        write_thumbnails(paths.thumbnails, list(found), list(found.values()))
    notes = {
        "fingerprint": digest_of("thumbnails", record.get("fingerprint")),
        "bytes": [*record.get("bytes", []), file_size(paths.thumbnails)],
        "checksums": record.get("checksums", {}) | checksums_by(paths.receipt, written),
    }
    write_record(paths.receipt, record | notes)
    return paths.receipt
