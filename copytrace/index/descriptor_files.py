"""Files of descriptors: `id, pane, start, end, vector`, a row per picture. Times are seconds, and null for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from copytrace.arrays import Floats, Times
from copytrace.storage import atomic_path

ROWS_PER_GROUP = 4096  # rows of a row group; with fewer, reading takes up to twice as long


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


def table_vectors(table: pa.Table) -> Floats:
    """Return the vectors of a table of descriptors, float32 [N, D], read-only."""
    lists = table.column("vector").combine_chunks()
    vectors: Floats = lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
    return vectors
