"""Planning of an index of images or videos from their source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.settings import MediaSettings
from copytrace.index.media_index import plan_index
from copytrace.index.odd_files import write_unlisted
from copytrace.index.plan_file import Shard, write_plan
from copytrace.media.files import list_source
from copytrace.media.formats import MediumKind
from copytrace.media.globs import FileChoice


def plan_source(
    source: str,
    root: Path,
    provenance: dict[str, Any],
    media: MediaSettings,
    *,
    is_described: Callable[[Shard], bool],
    replace: bool,
) -> list[int]:
    """List the media of `source`, plan the index at `root`, and return the numbers of the shards to describe.

    What the listing could not read or passed over is written down in the index. Raises `InputError` if the source
    cannot be used, and `ModelMismatchError` as `plan_index` does.
    """
    kind: MediumKind = "video" if provenance["kind"] == "videos" else "image"
    listing = list_source(source, FileChoice(media.include, media.exclude, media.roots), kind)
    plan = plan_index(
        listing.items,
        root,
        provenance,
        shard_size=media.shard_size,
        is_described=is_described,
        replace=replace,
        known_by=media.known_by,
    )
    write_plan(plan)
    write_unlisted(root, listing)
    return [shard.number for shard in plan.shards if not is_described(shard)]
