"""Files of points: `points/*.parquet` has a row per point, `views/*.parquet` a row per view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.features.points import DIMENSIONS, Points
from copytrace.storage import read_table, write_table

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
    write_table(points_path, pa.Table.from_arrays(columns, schema=POINT_SCHEMA))
    write_table(views_path, pa.table(by_column, schema=VIEW_SCHEMA))


def read_points(points_path: Path, views_path: Path) -> Iterator[View]:
    """Yield the views of a shard in the order in which they were written."""
    table = read_table(points_path, columns=["x", "y", "scale", "angle", "descriptor"], schema=POINT_SCHEMA)
    x, y, scale, angle = (table.column(name).to_numpy() for name in ("x", "y", "scale", "angle"))
    lists = table.column("descriptor").combine_chunks()
    descriptors = lists.flatten().to_numpy().reshape(-1, DIMENSIONS)
    start = 0
    for row in read_table(views_path, schema=VIEW_SCHEMA).to_pylist():
        part = slice(start, start + row["points"])
        box = (row["x0"], row["y0"], row["x1"], row["y1"])
        points = Points(x[part], y[part], scale[part], angle[part], descriptors[part], row["width"], row["height"], box)
        yield View(row["id"], row["view"], points)
        start = part.stop


def _concatenate(arrays: Iterable[NDArray[np.generic]], dtype: type[np.generic]) -> NDArray[np.generic]:
    parts = list(arrays)
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
