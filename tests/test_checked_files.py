"""Files that are checked when they are read: parts of large ones, records, and tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copytrace import checked_files
from copytrace.checked_files import open_checked, read_checked, read_record, read_sealed, seal, write_record
from copytrace.checksums import (
    BLOCK,
    BlockChecks,
    CheckedStream,
    MappedChecks,
    checksums_of,
    checksums_of_stream,
    collect_checksums,
)
from copytrace.errors import DamagedFileError
from copytrace.step import Step
from copytrace.storage import write_json
from copytrace.tables import read_table, write_table

CONTENT = np.random.default_rng(0).bytes(2 * BLOCK + 1000)


def checks(content: bytes = CONTENT) -> BlockChecks:
    return BlockChecks(Path("index/points/00000.parquet"), checksums_of_stream(io.BytesIO(content)))


def flipped(at: int) -> bytes:
    return CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]


@given(st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, BLOCK + 5)), max_size=4))
def test_a_checked_stream_gives_what_the_stream_has(reads: list[tuple[int, int]]) -> None:
    plain, checked = io.BytesIO(CONTENT), CheckedStream(io.BytesIO(CONTENT), checks())
    for position, count in reads:
        assert plain.seek(position) == checked.seek(position)
        assert plain.read(count) == checked.read(count)
        assert plain.tell() == checked.tell()


def test_a_flipped_bit_is_noticed_when_its_block_is_read_and_not_before() -> None:
    stream = CheckedStream(io.BytesIO(flipped(BLOCK + 7)), checks())
    assert stream.read(BLOCK) == CONTENT[:BLOCK]
    assert stream.seek(-1000, io.SEEK_END) == 2 * BLOCK
    assert stream.read() == CONTENT[-1000:]
    stream.seek(BLOCK + 100)
    with pytest.raises(DamagedFileError, match=rf"00000.parquet is damaged at byte {BLOCK:,} or behind; run"):
        stream.read(1)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"1", b""], ids=["cut", "longer", "empty"])
def test_a_file_of_another_size_is_noticed(content: bytes) -> None:
    with pytest.raises(DamagedFileError, match=rf"damaged: it has {len(content):,} bytes instead of {len(CONTENT):,}"):
        CheckedStream(io.BytesIO(content), checks())
    with pytest.raises(DamagedFileError):
        checks().check_stream(io.BytesIO(content))


def test_of_a_mapped_file_only_what_is_needed_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "lists"
    file.write_bytes(flipped(BLOCK + 7))
    mapped = MappedChecks(checks(), file)
    mapped.check_parts(np.array([0, 2 * BLOCK, BLOCK + 1]), np.array([BLOCK, 2 * BLOCK + 1, BLOCK + 1]))
    with pytest.raises(DamagedFileError):
        mapped.check_parts(np.array([BLOCK - 1]), np.array([BLOCK + 1]))


def test_checksums_of_what_is_written_are_collected(tmp_path: Path) -> None:
    with collect_checksums() as written:
        path = write_json(tmp_path / "a.json", 1)
    write_json(tmp_path / "b.json", 1)
    assert written == {str(path): checksums_of(path)}


def test_a_record_comes_back_and_any_flipped_bit_of_it_is_noticed(tmp_path: Path) -> None:
    content = {"shards": {"10": "a", "9": "b"}, "seconds": 0.1, "none": None, "name": "é"}
    path = write_record(tmp_path / "record.json", content)
    assert read_record(path) == content
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_record(path)
        except DamagedFileError:
            continue
        assert found == content


def test_a_record_of_an_older_version_has_no_checksum(tmp_path: Path) -> None:
    assert read_record(write_json(tmp_path / "record.json", {"a": 1})) == {"a": 1}
    assert read_record(tmp_path / "absent.json") == {}


@pytest.mark.parametrize("content", [b"[1]", b'{"a": 1', b"\xff\xfe"])
def test_a_record_that_is_none_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"record.json is damaged; run `copytrace verify .* --repair`"):
        read_record(tmp_path / "record.json")


def test_a_sealed_table_comes_back_and_a_changed_one_is_noticed(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "é", ""], "shard": pa.array([1, 2, 3], pa.int32()), "kept": [True, False, True]})
    table = table.replace_schema_metadata({"states": "{}"})
    path = write_table(tmp_path / "manifest.parquet", seal(table))
    assert read_sealed(path).equals(table, check_metadata=True)
    sealed = read_table(path)
    changes = [
        sealed.set_column(0, "id", [["a", "e", ""]]),
        sealed.set_column(1, "shard", [pa.array([1, 2, 4], pa.int32())]),
        sealed.slice(1),
        sealed.replace_schema_metadata(sealed.schema.metadata | {b"states": b"{1}"}),
        sealed.replace_schema_metadata({key.replace(b"2", b"3"): each for key, each in sealed.schema.metadata.items()}),
    ]
    for changed in changes:
        write_table(path, changed)
        with pytest.raises(DamagedFileError):
            read_sealed(path)


@pytest.mark.parametrize("largest_whole", [checked_files.WHOLE, 0], ids=["whole", "in parts"])
def test_a_table_is_checked_by_the_record_of_its_step(
    tmp_path: Path, largest_whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "WHOLE", largest_whole)
    table = pa.table({"a": np.arange(200_000), "b": np.arange(200_000)[::-1]})
    path = tmp_path / "table.parquet"
    with Step.of("write", path, made_from=[]).run(1, "tables"):
        write_table(path, table, rows_per_group=10_000)
    assert read_checked(path).equals(table)
    with open_checked(path, path.with_suffix(".json")) as file:
        assert file.read_row_group(3).equals(table.slice(30_000, 10_000))
    footer = bytearray(path.read_bytes())
    footer[-20] ^= 4
    path.write_bytes(footer)
    with pytest.raises(DamagedFileError, match=r"table.parquet is damaged at byte"):
        read_checked(path)
    path.unlink()
    with pytest.raises(DamagedFileError, match=r"table.parquet is missing; run"):
        read_checked(path)


def test_a_cut_table_without_checksums_is_told_in_one_line(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.parquet", pa.table({"a": [1]}))
    assert pq.read_table(path).equals(read_checked(path))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedFileError, match=r"table.parquet is damaged; run"):
        read_checked(path)


def test_a_step_whose_record_is_damaged_is_not_done(tmp_path: Path) -> None:
    step = Step.of("write", tmp_path / "a.txt", made_from=[])
    with step.run(1, "files"):
        (tmp_path / "a.txt").write_text("1")
    assert step.is_done()
    record = json.loads(step.record.read_text())
    step.record.write_text(json.dumps(record | {"seconds": -1}))
    assert not step.is_done()
