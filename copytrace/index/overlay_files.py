"""Files of the boxes of pictures pasted into queries, one per shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from copytrace.checked_files import read_checked
from copytrace.overlays.boxes import Box
from copytrace.tables import table_of_rows, write_table

NUMBERS = ("x0", "y0", "x1", "y1", "confidence")
OVERLAY_SCHEMA = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in NUMBERS)])
# Of boxes from a file: exactly as they are there, since 0.55 in single precision exceeds a threshold of 0.55.
GIVEN_SCHEMA = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in NUMBERS), ("branch", pa.string())])


def write_overlays(path: Path, found: Iterable[tuple[str, Sequence[Box]]], *, with_branches: bool) -> Path:
    """Write the boxes of each image, best first, and return the file."""
    rows: list[tuple[object, ...]] = []
    for image, boxes in found:
        for box in boxes:
            branch = (box.branch,) if with_branches else ()
            rows.append((image, box.x0, box.y0, box.x1, box.y1, box.confidence, *branch))
    return write_table(path, table_of_rows(rows, GIVEN_SCHEMA if with_branches else OVERLAY_SCHEMA))


def read_overlays(path: Path) -> dict[str, list[Box]]:
    """Return the boxes of each image that has any, best first. Raises `DamagedFileError`."""
    boxes: dict[str, list[Box]] = {}
    for row in read_checked(path).to_pylist():
        boxes.setdefault(row.pop("id"), []).append(Box(**row))
    return boxes
