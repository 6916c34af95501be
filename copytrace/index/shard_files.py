"""The files of a shard: its descriptors and, of images, its points, views, thumbnails and overlays.

`descriptors/*.parquet` has a row `id, pane, start, end, vector` per picture; times are seconds, and null for images.
`points/*.parquet` has a row per point, `views/*.parquet` a row per view, `overlays/*.parquet` a row per picture pasted
into a query, and `thumbnails/*.parquet` a row `id, thumbnail`, of 864 bytes, per image; see `features.thumbnails`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from copytrace.arrays import Floats, Times
from copytrace.checked_files import checks_of, open_checked, read_checked
from copytrace.checksums import damage_error
from copytrace.features.points import DIMENSIONS, Bytes, Points
from copytrace.features.thumbnails import BYTES
from copytrace.overlays.boxes import Box
from copytrace.storage import atomic_path
from copytrace.tables import table_of_rows, write_table

ROWS_PER_GROUP = 4096  # rows of a row group; with fewer, reading takes up to twice as long
POINTS_PER_GROUP = 2048  # of about four images: few of a shard are read to score pairs

POINT_SCHEMA = pa.schema(
    [
        ("id", pa.dictionary(pa.int32(), pa.string())),
        ("view", pa.dictionary(pa.int8(), pa.string())),
        *((name, pa.float32()) for name in ("x", "y", "scale", "angle")),
        ("descriptor", pa.list_(pa.uint8(), DIMENSIONS)),
    ]
)
VIEW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("view", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1")),
        ("points", pa.int32()),
    ]
)
BOX = ("x0", "y0", "x1", "y1", "confidence")
OVERLAY_SCHEMA = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in BOX)])
# Of boxes from a file: exactly as they are there, since 0.55 in single precision exceeds a threshold of 0.55.
GIVEN_SCHEMA = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in BOX), ("branch", pa.string())])
THUMBNAIL_SCHEMA = pa.schema([("id", pa.string()), ("thumbnail", pa.binary(BYTES))])


class DescriptorWriter:
    """A writer of descriptors that holds at most `ROWS_PER_GROUP` rows in memory; see `open_descriptor_writer`."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._waiting: list[pa.Table] = []

    def add(self, ids: Sequence[str], panes: Sequence[str], vectors: Floats, times: Times | None = None) -> None:
        """Append N rows: `vectors` float32 [N, D]; `times` float64 [N, 2], start and end in seconds, None for images.

        Raises `ValueError` if the shapes do not fit.
        """
        dimensions = self._schema.field("vector").type.list_size
        if vectors.shape != (len(ids), dimensions):
            raise ValueError(f"vectors have the shape {list(vectors.shape)}, and [{len(ids)}, {dimensions}] is needed")
        nulls = pa.nulls(len(ids), pa.float64())
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        columns = [
            pa.array(ids, pa.string()),
            pa.array(panes, pa.string()),
            nulls if times is None else pa.array(times[:, 0]),
            nulls if times is None else pa.array(times[:, 1]),
            pa.FixedSizeListArray.from_arrays(flat, dimensions),
        ]
        self._waiting.append(pa.table(columns, schema=self._schema))
        if sum(map(len, self._waiting)) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are still in memory."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []


@contextmanager
def open_descriptor_writer(path: Path, dimensions: int) -> Iterator[DescriptorWriter]:
    """Yield a writer of vectors with `dimensions` numbers; the file appears at `path` if the block raises nothing."""
    vector = pa.list_(pa.float32(), dimensions)
    names = [("id", pa.string()), ("pane", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    schema = pa.schema([*names, ("vector", vector)])
    # Vectors do not repeat: a dictionary of them would take three times as long, and half as much space again.
    options = {"compression": "zstd", "use_dictionary": ["id", "pane"]}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        descriptors = DescriptorWriter(writer, schema)
        yield descriptors
        descriptors.flush()


def table_vectors(table: pa.Table, path: Path = Path("descriptors")) -> Floats:
    """Return the vectors of a table of descriptors, float32 [N, D], read-only.

    Raises `DamagedFileError` for the file at `path`, of which the table is, if its vectors are not of one length.
    """
    lists = table.column("vector").combine_chunks()
    if not (pa.types.is_fixed_size_list(lists.type) and pa.types.is_float32(lists.type.value_type)) or lists.null_count:
        raise damage_error(path)
    vectors: Floats = lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
    return vectors


@dataclass(frozen=True, slots=True)
class View:
    """The points of one view of one image."""

    id: str
    name: str
    points: Points


def write_points(points_path: Path, views_path: Path, views: Sequence[View]) -> None:
    """Write the points and the views of a shard, in the order given."""
    counts = [len(view.points) for view in views]
    rows = np.repeat(np.arange(len(views)), counts)
    columns: list[pa.Array] = [
        pa.array([view.id for view in views], pa.string()).take(pa.array(rows)).dictionary_encode(),
        pa.array([view.name for view in views], pa.string()).take(pa.array(rows)).dictionary_encode(),
    ]
    columns = [column.cast(field.type) for column, field in zip(columns, POINT_SCHEMA, strict=False)]
    for name in ("x", "y", "scale", "angle"):
        columns.append(pa.array(_concatenate([getattr(view.points, name) for view in views], np.float32)))
    flat = _concatenate([view.points.descriptor.ravel() for view in views], np.uint8)
    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), DIMENSIONS))
    described = [(v.id, v.name, v.points.width, v.points.height, *v.points.box, len(v.points)) for v in views]
    by_column = list(zip(*described, strict=True)) if described else [()] * len(VIEW_SCHEMA)
    write_table(points_path, pa.Table.from_arrays(columns, schema=POINT_SCHEMA), rows_per_group=POINTS_PER_GROUP)
    write_table(views_path, pa.table(by_column, schema=VIEW_SCHEMA))


def read_points(
    points_path: Path, views_path: Path, wanted: Collection[str] | None = None, *, record: Path | None = None
) -> Iterator[View]:
    """Yield the views of a shard in the order in which they were written: all, or those of the `wanted` images.

    Only the parts of the file that hold wanted points are read, and checked by the `record`, if it is given. Raises
    `DamagedFileError` if a file is missing or damaged.
    """
    record = record or points_path.with_suffix(".json")
    # `read_table` of pyarrow, and its threads, take as long as all else if few images of a shard are wanted.
    with open_checked(views_path, record) as file:
        views = file.read(columns=VIEW_SCHEMA.names, use_threads=False)
    ends = np.cumsum([0, *views.column("points").to_pylist()])
    ids = views.column("id").to_pylist()
    chosen = [n for n, image in enumerate(ids) if wanted is None or image in wanted]
    if not chosen:
        return
    rows = dict(zip(chosen, views.take(pa.array(chosen)).to_pylist(), strict=True))
    with open_checked(points_path, record) as file:
        groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        bounds = np.cumsum([0, *groups])
        needed = sorted(
            {g for n in chosen for g in range(len(groups)) if bounds[g] < ends[n + 1] and bounds[g + 1] > ends[n]}
        )
        columns = ["x", "y", "scale", "angle", "descriptor"]
        table = file.read_row_groups(needed, columns=columns, use_threads=wanted is None)
    # Where each group that was read begins in what was read; the groups of a view follow one another.
    begins = dict(zip(needed, np.cumsum([0, *(groups[g] for g in needed)])[:-1], strict=True))
    x, y, scale, angle = (table.column(name).to_numpy() for name in ("x", "y", "scale", "angle"))
    lists = table.column("descriptor").combine_chunks()
    descriptors = lists.flatten().to_numpy().reshape(-1, DIMENSIONS)
    for n in chosen:
        row, group = rows[n], int(np.searchsorted(bounds, ends[n], side="right")) - 1
        start = ends[n] - bounds[group] + begins[group] if row["points"] else 0
        part = slice(start, start + row["points"])
        box = (row["x0"], row["y0"], row["x1"], row["y1"])
        points = Points(x[part], y[part], scale[part], angle[part], descriptors[part], row["width"], row["height"], box)
        yield View(row["id"], row["view"], points)


def _concatenate(arrays: Iterable[NDArray[np.generic]], dtype: type[np.generic]) -> NDArray[np.generic]:
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


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
