"""Vectors of a table of descriptors are of one length, or the file is called damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from copytrace.errors import DamagedFileError
from copytrace.index.shard_files import table_vectors

KIND = pa.list_(pa.float32(), 2)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0, 2.0]], pa.list_(pa.float32())),
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([[1.0, 2.0], None], KIND),
        pa.array(["x"]),
    ],
)
def test_vectors_of_no_length_are_damage_of_their_file(column: pa.Array, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=r"00000\.parquet is damaged"):
        table_vectors(pa.table({"vector": column}), tmp_path / "00000.parquet")


def test_vectors_of_one_length_are_rows() -> None:
    table = pa.table({"vector": pa.array([[1.0, 2.0], [3.0, 4.0]], KIND)})
    assert table_vectors(table).tolist() == [[1, 2], [3, 4]]
