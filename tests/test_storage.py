"""Files are whole or absent, on disk and in a store."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from copytrace import storage
from copytrace.errors import InputError, StorageError
from copytrace.storage import (
    atomic_path,
    digest_of,
    digest_of_file,
    file_identity,
    file_size,
    local_copy,
    real_path,
    remove_tree,
    require_writable,
    resolve_path,
    write_json,
    write_text,
)
from copytrace.tables import (
    FIRST_REQUEST,
    FOOTER,
    count_rows,
    open_parquet,
    read_schema,
    read_table,
    write_csv,
    write_table,
)


@pytest.fixture
def remote() -> Iterator[Path]:
    """A place in a store that is empty, and that lives as long as the process."""
    root = resolve_path("memory://storage")
    yield root
    if root.exists():
        remove_tree(root)


def test_a_file_that_could_not_be_written_is_absent_and_so_is_its_part(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*table\.parquet'") as raised,
        atomic_path(tmp_path / "table.parquet") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "free", "is_full"),
    [
        (OSError("16384 requested and 6640 written"), 1 << 30, True),  # numpy
        (ValueError("I/O error: No space left on device (os error 28)"), 1 << 30, True),  # safetensors
        (RuntimeError("unexpected pos 576 vs 534"), 0, True),  # torch; faiss is alike
        (RuntimeError("unexpected pos 576 vs 534"), 1 << 30, False),
        (ValueError("no numbers"), 0, False),
    ],
)
def test_a_full_disk_is_told_as_such_whatever_a_library_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, free: int, is_full: bool
) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(OSError if is_full else type(error)) as raised, atomic_path(tmp_path / "a.pt"):
        raise error
    if is_full:
        assert str(raised.value) == f"[Errno 28] No space left on device: '{tmp_path / 'a.pt'}'"


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = write_json(tmp_path / "run.json", {"a": 1})
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_a_size_and_what_is_absent_has_none(remote: Path, tmp_path: Path) -> None:
    for root in (remote, tmp_path):
        assert file_size(write_text(root / "t.txt", "four")) == 4
        assert file_size(root / "absent.txt") is None


def test_a_digest_changes_with_any_part_and_not_with_the_order_of_names() -> None:
    assert digest_of({"a": 1, "b": 2}, 3) == digest_of({"b": 2, "a": 1}, 3)
    assert len({digest_of(1, 2), digest_of(2, 1), digest_of([1, 2]), digest_of(1)}) == 4


def test_places_are_local_paths_or_uris(tmp_path: Path) -> None:
    assert resolve_path(tmp_path / "a") == tmp_path / "a"
    assert resolve_path(f"file://{tmp_path}/a") == tmp_path / "a"
    assert str(resolve_path("s3://bucket/run") / "matches.csv") == "s3://bucket/run/matches.csv"
    assert resolve_path(resolve_path("s3://bucket/run")) == resolve_path("s3://bucket/run")
    with pytest.raises(InputError, match="fsspec knows no nowhere://"):
        resolve_path("nowhere://bucket/run")


def test_files_in_a_store_have_the_bytes_of_those_on_disk(remote: Path, tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": ["x, y", None]})
    for root in (remote, tmp_path):
        write_table(root / "deep" / "t.parquet", table)
        write_csv(root / "t.csv", table)
        write_text(root / "t.txt", "one\r\ntwo\n")
    for name in ("deep/t.parquet", "t.csv", "t.txt"):
        assert (remote / name).read_bytes() == (tmp_path / name).read_bytes()
        assert digest_of_file(remote / name) == digest_of_file(tmp_path / name)


def test_a_failed_write_leaves_nothing_in_a_store(remote: Path) -> None:
    with pytest.raises(RuntimeError), atomic_path(remote / "t.parquet") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert not (remote / "t.parquet").exists()
    assert not temporary.parent.exists()


@pytest.mark.parametrize("rows", [3, FIRST_REQUEST // 4])
def test_a_table_in_a_store_is_read_as_one_on_disk(remote: Path, rows: int) -> None:
    values = np.random.default_rng(0).random(rows)
    table = pa.table({"number": range(rows), "value": values})
    path = write_table(remote / "t.parquet", table)
    assert count_rows(path) == rows
    assert read_schema(path).names == ["number", "value"]
    assert read_table(path, columns=["value"]).column("value").to_numpy().tolist() == values.tolist()
    assert read_table(path, columns=["value", "number"]).column_names == ["value", "number"]
    with pytest.raises(pa.ArrowInvalid, match="no column another"):
        read_table(path, columns=["another"])
    schema = pa.schema([("another", pa.list_(pa.float32())), ("number", pa.int32())])
    assert read_table(path, schema=schema).slice(1, 1).to_pylist() == [{"another": None, "number": 1}]
    with open_parquet(path) as file:
        assert sum(batch.num_rows for batch in file.iter_batches(columns=["number"])) == rows


def test_the_schema_of_a_table_with_a_long_footer_is_read(remote: Path) -> None:
    names = [f"column {number:04} {'x' * 40}" for number in range(FOOTER // 100)]
    path = write_table(remote / "wide.parquet", pa.table({name: [1] for name in names}))
    assert read_schema(path).names == names


def test_a_local_copy_goes_when_it_was_used(remote: Path, tmp_path: Path) -> None:
    write_text(remote / "weights.bin", "weights")
    with local_copy(remote / "weights.bin") as file:
        assert file.name == "weights.bin"
        assert file.read_text() == "weights"
    assert not file.exists()
    with pytest.raises(FileNotFoundError), local_copy(remote / "absent"):
        pass
    here = write_text(tmp_path / "here", "")
    with local_copy(here) as file:
        assert file == here
    assert here.exists()


def test_a_tree_in_a_store_is_removed_and_its_neighbour_is_not(remote: Path) -> None:
    for name in ("run/a", "run/b/c", "run2/a"):
        write_text(remote / name, "")
    remove_tree(remote / "run")
    assert not (remote / "run").exists()
    assert (remote / "run2" / "a").exists()


def test_proving_that_a_place_can_be_written_leaves_nothing(remote: Path, tmp_path: Path) -> None:
    assert require_writable(remote / "run") == remote / "run"
    assert list((remote / "run").iterdir()) == []
    assert require_writable(tmp_path / "run") == tmp_path / "run"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file", "file is no folder, and what is written needs one"),
        ("file/below", "file is no folder, and what is written needs one"),
        ("n" * 300, "cannot be a folder: File name too long"),
        ("/proc/1/out", "^/proc/1 may not be written, or its disk is read-only"),
        ("", "given as an empty text"),
    ],
)
def test_a_place_that_can_hold_no_folder_is_refused_with_the_reason(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=told):
        require_writable(str(tmp_path / place) if place else "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(StorageError, match=r"^ftp://127.0.0.1:1/x cannot be reached \(ConnectionRefusedError\)"):
        resolve_path("ftp://127.0.0.1:1/x")


def test_all_spellings_of_a_file_have_one_real_path(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    (tmp_path / "linked").symlink_to(folder)
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    spelled = [folder / "a.jpg", folder / ".." / "photos" / "a.jpg", tmp_path / "linked" / "a.jpg", folder / "link.jpg"]
    assert {real_path(str(path)) for path in spelled} == {os.path.realpath(folder / "a.jpg")}
    assert real_path("s3://bucket/../a.jpg") == "s3://bucket/../a.jpg"


def test_all_names_of_a_file_have_one_identity_and_its_copies_have_others(tmp_path: Path) -> None:
    first, second, link, copy = (tmp_path / name for name in ("a.jpg", "b.jpg", "link.jpg", "copy.jpg"))
    first.write_bytes(b"a")
    copy.write_bytes(b"a")
    second.hardlink_to(first)
    link.symlink_to(first)
    assert {file_identity(str(path)) for path in (second, link)} == {file_identity(str(first))}
    assert file_identity(str(copy)) != file_identity(str(first))


def test_a_file_that_is_gone_is_known_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    assert file_identity(str(tmp_path / "linked" / "gone.jpg")) == os.path.realpath(tmp_path / "gone.jpg")
    assert file_identity("s3://bucket/a.jpg") == "s3://bucket/a.jpg"


def test_what_is_written_follows_the_umask_of_the_process(tmp_path: Path) -> None:
    imports = "import sys; from pathlib import Path; from copytrace.storage import write_text"
    code = f"{imports}; write_text(Path(sys.argv[1]), '')"
    modes = {}
    for umask in (0o077, 0o027, 0o002):
        file = tmp_path / f"{umask:o}"
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, umask=umask)
        modes[umask] = file.stat().st_mode & 0o777
    assert modes == {0o077: 0o600, 0o027: 0o640, 0o002: 0o664}
