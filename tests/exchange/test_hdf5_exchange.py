"""Descriptors of images as HDF5: what an index exports, and what is refused of files of others. They need h5py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.images import ImageSettings
from copytrace.errors import InputError
from copytrace.exchange.hdf5_exchange import export_hdf5
from copytrace.exchange.hdf5_files import open_image_descriptors, write_hdf5
from copytrace.index.image_index import ImageIndex
from copytrace.index.media_index import write_index
from copytrace.index.plan_file import IndexPlan

h5py = pytest.importorskip("h5py")

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_two_indexes_are_exported_as_a_submission_sorted_by_id(
    tmp_path: Path,
    photos: Mapping[str, Any],
    image_settings: ImageSettings,
    write_photos: Callable[..., Path],
    build_index: Callable[..., tuple[ImageIndex, list[int]]],
) -> None:
    few = dict(sorted(photos.items())[:3])
    folder = write_photos(tmp_path / "photos", {name: few[name] for name in reversed(few)})
    sides = {role: build_index(folder, tmp_path / role, role, image_settings)[0] for role in ("queries", "references")}
    assert export_hdf5(sides, tmp_path / "d.h5") == {"queries": 3, "references": 3}
    with h5py.File(tmp_path / "d.h5") as file:
        assert {name: file[name].dtype for name in ("query", "reference")} == {"query": "<f4", "reference": "<f4"}
    with open_image_descriptors(tmp_path / "d.h5", "queries") as stored:
        assert stored.ids.tolist() == sorted(few)
        expected = {
            name: vector
            for shard in sides["queries"].shards
            for name, pane, vector in zip(*_rows(sides["queries"], shard), strict=True)
            if pane == "whole"
        }
        np.testing.assert_array_equal(stored.vectors[:], [expected[name] for name in sorted(few)])


def _rows(index: ImageIndex, shard: int) -> tuple[Any, Any, Any]:
    described = index.descriptors(shard)
    return described.ids, described.panes, described.vectors


def test_one_side_is_read_as_isc2021_writes_it_without_folders_and_suffixes(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "d.h5", {"references": (np.array(["a/R000001.jpg", "R000002.png", "R3"]), VECTORS)})
    with open_image_descriptors(tmp_path / "d.h5", "references") as stored:
        assert stored.ids.tolist() == ["R000001", "R000002", "R3"]
        np.testing.assert_array_equal(np.concatenate([block for _, block in stored.blocks()]), VECTORS)


@pytest.mark.parametrize(
    ("ids", "vectors", "told"),
    [
        (["a", "b", "a"], VECTORS, "rows 1 and 3 have the same id 'a'; keep one row per image"),
        (["a", "", "c"], VECTORS, "row 2 of query_ids is empty"),
        (["a", "b"], VECTORS, r"query_ids \(2,\) and query \(3, 2\) of float32 do not fit"),
        (["a", "b", "c"], VECTORS * np.float32([[1], [np.inf], [1]]), r"row 2 \(b\) has a vector that is not finite"),
        (["a" * 300, "b", "c"], VECTORS, "has ids of 300 bytes"),
    ],
)
def test_unusable_rows_are_refused_with_row_and_cure(ids: list[str], vectors: Any, told: str, tmp_path: Path) -> None:
    with np.errstate(invalid="ignore"), h5py.File(tmp_path / "d.h5", "w") as file:
        file["query"], file["query_ids"] = vectors, np.array([name.encode() for name in ids])
    with (
        pytest.raises(InputError, match=rf"d\.h5.*{told}"),
        open_image_descriptors(tmp_path / "d.h5", "queries"),
    ):
        pass


def test_an_index_without_images_is_refused(tmp_path: Path) -> None:
    made_with = {"kind": "images", "role": "references", "descriptor": "any", "typical_noise": None}
    write_index(IndexPlan(tmp_path / "empty", made_with, {}, ()))
    with pytest.raises(InputError, match="holds no images; index some first"):
        export_hdf5({"references": ImageIndex.open(tmp_path / "empty")}, tmp_path / "d.h5")
    assert not (tmp_path / "d.h5").exists()
