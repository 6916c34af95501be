"""Files are whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from copytrace.storage import atomic_path, digest_of, read_stamp, write_json, write_table


def test_a_file_that_could_not_be_written_is_absent_and_so_is_its_part(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*table\.parquet'") as raised,
        atomic_path(tmp_path / "table.parquet") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = write_json(tmp_path / "run.json", {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_carries_its_stamp_and_what_is_no_table_has_none(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", pa.table({"a": [1]}), stamp="made of this")
    assert read_stamp(path) == "made of this"
    assert read_stamp(tmp_path / "absent.parquet") is None
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:-4])
    assert read_stamp(tmp_path / "broken.parquet") is None


def test_a_digest_changes_with_any_part_and_not_with_the_order_of_names() -> None:
    assert digest_of({"a": 1, "b": 2}, 3) == digest_of({"b": 2, "a": 1}, 3)
    assert len({digest_of(1, 2), digest_of(2, 1), digest_of([1, 2]), digest_of(1)}) == 4
