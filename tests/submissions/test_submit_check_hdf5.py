"""What `submit-check disc21` says of descriptors in HDF5; these tests need h5py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from copytrace.cli import app

h5py = pytest.importorskip("h5py")

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)
Q_IDS, R_IDS = np.array([b"Q00000", b"Q00001", b"Q00002"]), np.array([b"R000000", b"R000001", b"R000002"])


def save(path: Path, **changes: Any) -> Path:
    arrays = {"query": VECTORS, "reference": VECTORS, "query_ids": Q_IDS, "reference_ids": R_IDS} | changes
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if isinstance(array, Callable):
                array(file, name)
            elif array is not None:
                file.create_dataset(name, data=array)
    return path


def check(path: Path, *options: str | Path) -> Result:
    return CliRunner().invoke(app, ["submit-check", "disc21", str(path), *map(str, options)], catch_exceptions=False)


def test_a_valid_file_is_known_by_its_content_and_must_have_all_images_that_are_listed(tmp_path: Path) -> None:
    path = save(tmp_path / "descriptors", query=VECTORS.astype(">f4"), query_ids=Q_IDS.astype(object))
    assert "is valid: descriptors of DISC21, 3 queries, 3 references; not checked: whether all" in check(path).stdout
    (tmp_path / "dev_queries").write_text("Q00000\nQ00001\nQ00002\nQ00003\n")
    told = check(path, "--queries", tmp_path / "dev_queries").stdout
    assert "1 queries are missing, such as Q00003; describe all of" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"query": None}, "it lacks the dataset query"),
        ({"query": VECTORS.astype("f8")}, "query has the type float64; write it as float32"),
        ({"query": np.ones((3, 257), "f4")}, "a descriptor in query has 257 numbers; give at most 256"),
        ({"query": np.ones((3, 4), "f4")}, "it has queries of 4 and references of 2 numbers"),
        ({"query": VECTORS[:2]}, "query_ids has 3 rows and query 2; give an id for each"),
        ({"query": VECTORS * np.float32([[1], [1], [np.nan]])}, "row 3: a descriptor in query is not finite"),
        ({"query_ids": Q_IDS[[1, 0, 2]]}, "row 2: an id in query_ids comes before the one above it (Q00000)"),
        ({"query_ids": Q_IDS[[0, 0, 1]]}, "row 2: an id in query_ids occurs again (Q00000); keep one row"),
        ({"query_ids": R_IDS}, "row 1 and 2 more: an id in query_ids is not one of the challenge (R000000)"),
        ({"query_ids": np.arange(3)}, "query_ids has int64 of shape (3,), not text"),
        ({"query": lambda file, name: file.create_group(name)}, "query is a group, not a dataset"),
        (
            {"query": lambda file, name: file.create_dataset(name, (10**9, 2), "f4", chunks=(1000, 2))},
            "query_ids has 3 rows and query 1,000,000,000",
        ),
        (
            {"query": lambda file, name: file.create_dataset(name, (3, 2), "f4", chunks=(3, 2), maxshape=(None, None))},
            "",
        ),
    ],
)
def test_faults_are_told(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    result = check(save(tmp_path / "d.h5", **changes))
    assert (result.exit_code, told in result.stdout) == (1 if told else 0, True), result.stdout


def test_nothing_outside_of_the_file_is_read(tmp_path: Path) -> None:
    secret = save(tmp_path / "secret.h5")
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "query", shape=(3, 2))

    def link(file: Any, name: str) -> None:
        file[name] = h5py.ExternalLink(str(secret), "query")

    def refer(file: Any, name: str) -> None:
        file.create_virtual_dataset(name, layout)

    def store_outside(file: Any, name: str) -> None:
        file.create_dataset(name, (3, 2), "f4", external=[(str(secret), 0, 24)])

    for make, told in ((link, "query is a link"), (refer, "lies in another file"), (store_outside, "lies in another")):
        result = check(save(tmp_path / "d.h5", query=make))
        assert (result.exit_code, told in result.stdout) == (1, True), result.stdout


def test_a_missing_h5py_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "d.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = check(path)
    assert (result.exit_code, "pip install 'copytrace[hdf5]'" in result.stderr) == (2, True)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    whole = save(tmp_path / "d.h5").read_bytes()
    for content in (b"", b"hello", whole[:8], whole[: len(whole) // 2]):
        (tmp_path / "d.h5").write_bytes(content)
        result = check(tmp_path / "d.h5")
        assert (result.exit_code, "unreadable HDF5 file" in result.stdout) == (1, True), result.stdout
