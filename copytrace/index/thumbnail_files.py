"""The thumbnails of a shard of images: a row `id, thumbnail` per image, of 864 bytes; see `features.thumbnails`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from copytrace.checked_files import checks_of, read_checked
from copytrace.features.points import Bytes
from copytrace.features.thumbnails import BYTES
from copytrace.tables import table_of_rows, write_table

THUMBNAIL_SCHEMA = pa.schema([("id", pa.string()), ("thumbnail", pa.binary(BYTES))])


def write_thumbnails(path: Path, ids: Sequence[str], thumbnails: Sequence[Bytes]) -> Path:
    """Write the thumbnails, uint8 [864] each, of images of a shard, and return the file."""
    rows = [(image, small.tobytes()) for image, small in zip(ids, thumbnails, strict=True)]
    return write_table(path, table_of_rows(rows, THUMBNAIL_SCHEMA))


def has_thumbnails(path: Path, record: Path) -> bool:
    """Return whether the record of a shard names a file of thumbnails; those of an older version do not."""
    return checks_of(path, record) is not None


def read_thumbnails(path: Path, record: Path, wanted: Collection[str] | None = None) -> dict[str, Bytes]:
    """Return the thumbnails, uint8 [864], of the images of a shard that have one, by their ids: all, or the `wanted`.

    Raises `DamagedFileError` if the record of the shard names the file, and it is missing or damaged.
    """
    if not has_thumbnails(path, record):
        return {}
    table = read_checked(path, record, schema=THUMBNAIL_SCHEMA)
    rows = zip(table.column("id").to_pylist(), table.column("thumbnail").to_pylist(), strict=True)
    return {image: np.frombuffer(row, np.uint8) for image, row in rows if wanted is None or image in wanted}
