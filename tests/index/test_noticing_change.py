"""Indexes of photos that are replaced, touched, moved and linked: what is described again, and where results lead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.checked_files import read_record
from copytrace.index.image_index import ImageIndex, describe_images, plan_images
from copytrace.index.manifest import read_manifest
from copytrace.index.media_index import receipt_path
from copytrace.index.plan_file import read_planned_shards
from copytrace.media.failures import read_failures
from copytrace.media.stamps import size_and_time
from copytrace.storage import write_json
from copytrace.tables import read_table, write_table

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]

TIME = 1_700_000_000_000_000_000


def write_bitmap(path: Path, pixels: Pixels) -> None:
    """Write a picture whose file has the same size for all pictures of its shape, and always the same time."""
    cv2.imwrite(str(path), cv2.resize(pixels, (64, 48)))
    os.utime(path, ns=(TIME, TIME))


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, Pixels]) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        write_bitmap(root / f"{name}.bmp", photos[name])
    return root


@pytest.fixture
def build(build_index: Build, image_settings: ImageSettings) -> Callable[..., tuple[ImageIndex, list[int]]]:
    def run(source: Path, root: Path) -> tuple[ImageIndex, list[int]]:
        return build_index(source, root, "references", image_settings)

    return run


def vector_of(index: ImageIndex, identity: str) -> list[float]:
    found = index.descriptors(index.shard_of(identity))
    row: list[float] = found.vectors[found.ids.index(identity)].tolist()
    return row


def make_0_1_0(root: Path) -> None:
    """Write an index as version 0.1.0 did: stamps of size and time, no contents, and no fingerprints in its plan."""
    for path in filter(Path.exists, (root / "manifest.parquet", root / "plan.parquet")):
        table = read_table(path)
        stamps = [size_and_time(stamp) for stamp in table.column("stamp").to_pylist()]
        table = table.set_column(table.column_names.index("stamp"), "stamp", [stamps])
        table = table.drop_columns([n for n in ("content", "fingerprint") if n in table.column_names])
        metadata = {key: value for key, value in table.schema.metadata.items() if key != b"copytrace.crc32"}
        write_table(path, table.replace_schema_metadata(metadata))
    for shard in read_planned_shards(root)[0]:
        if record := read_record(receipt_path(root, shard.number)):
            record.pop("contents")
            write_json(receipt_path(root, shard.number), record | {"fingerprint": shard.fingerprint})


def test_a_photo_that_was_replaced_under_the_same_size_and_time_is_described_anew(
    folder: Path, photos: dict[str, Pixels], build: Build
) -> None:
    before, _ = build(folder, folder.parent / "index")
    write_bitmap(folder / "coffee.bmp", photos["astronaut"])
    after, described = build(folder, folder.parent / "index")
    assert described == [2]
    assert vector_of(after, "coffee") != vector_of(before, "coffee")
    assert after.fingerprint != before.fingerprint


def test_touched_moved_and_copied_photos_are_not_described_again_and_are_found_where_they_are(
    folder: Path, build: Build
) -> None:
    root = folder.parent / "index"
    before, _ = build(folder, root)
    fingerprint, content = before.fingerprint, before.items.media()
    os.utime(folder / "coffee.bmp")
    moved = folder.rename(folder.parent / "moved")
    copied = shutil.copytree(moved, folder.parent / "copied", copy_function=shutil.copyfile)
    for place in (moved, copied):
        index, described = build(place, root)
        assert (described, index.fingerprint) == ([], fingerprint)
        assert [item.content for item in index.items.media()] == [item.content for item in content]
        assert dict(index.paths) == {name: str(place / f"{name}.bmp") for name in ("chelsea", "coffee", "rocket")}


def test_an_index_that_was_moved_or_copied_is_taken_as_it_is(folder: Path, build: Build) -> None:
    before, _ = build(folder, folder.parent / "index")
    fingerprint = before.fingerprint
    copied = shutil.copytree(before.root, folder.parent / "copied")
    moved = before.root.rename(folder.parent / "moved")
    for root in (copied, moved):
        index, described = build(folder, root)
        assert (described, index.fingerprint) == ([], fingerprint)


def test_damaged_photos_that_were_moved_are_listed_where_they_are(
    folder: Path, photos: dict[str, Pixels], build: Build
) -> None:
    cv2.imwrite(str(folder / "cut.jpg"), photos["astronaut"])
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-500])
    build(folder, folder.parent / "index")
    moved = folder.rename(folder.parent / "moved")
    _, described = build(moved, folder.parent / "index")
    assert described == []
    assert [row.path for row in read_failures(folder.parent / "index" / "failures.csv")] == [str(moved / "cut.jpg")]


def test_an_index_of_version_0_1_0_is_brought_up_to_date_without_describing_anything(
    folder: Path, photos: dict[str, Pixels], build: Build
) -> None:
    root = folder.parent / "index"
    build(folder, root)
    make_0_1_0(root)
    assert len(ImageIndex.open(root).paths) == 3
    index, described = build(folder, root)
    assert described == []
    assert all(item.content for item in index.items.media())
    moved = shutil.copytree(folder, folder.parent / "moved", copy_function=shutil.copyfile)
    assert build(moved, root)[1] == []
    write_bitmap(moved / "coffee.bmp", photos["astronaut"])
    assert len(build(moved, root)[1]) == 1


@pytest.fixture
def stopped(folder: Path, use_grid_descriptor: None, image_settings: ImageSettings) -> Path:
    """Return an index of which one shard of two was described when the run was stopped."""
    root = folder.parent / "index"
    first, _ = plan_images(str(folder), root, "references", image_settings, replace=False)
    describe_images(root, first, image_settings)
    return root


def test_a_stopped_run_goes_on_though_its_photos_were_moved(stopped: Path, folder: Path, build: Build) -> None:
    copied = shutil.copytree(folder, folder.parent / "copied", copy_function=shutil.copyfile)
    index, described = build(copied, stopped)
    assert described == [1]
    assert index.paths["chelsea"] == str(copied / "chelsea.bmp")


def test_a_stopped_run_describes_again_what_was_replaced(
    stopped: Path, folder: Path, photos: dict[str, Pixels], build: Build
) -> None:
    write_bitmap(folder / "chelsea.bmp", photos["astronaut"])
    assert len(build(folder, stopped)[1]) == 2


def test_a_run_that_was_stopped_by_version_0_1_0_goes_on(stopped: Path, folder: Path, build: Build) -> None:
    make_0_1_0(stopped)
    index, described = build(folder, stopped)
    assert described == [1]
    assert all(item.content for item in index.items.media())


def test_a_second_name_of_a_photo_is_passed_over_and_a_copy_is_not(folder: Path, build: Build) -> None:
    (folder / "again.bmp").hardlink_to(folder / "coffee.bmp")
    shutil.copyfile(folder / "rocket.bmp", folder / "rocket2.bmp")
    index, _ = build(folder, folder.parent / "index")
    assert list(index.items) == ["again", "chelsea", "rocket", "rocket2"]
    (row,) = read_failures(index.root / "passed_over.csv")
    assert (row.id, row.stage) == ("coffee.bmp", "link")


def test_a_manifest_of_version_0_1_0_can_be_read(folder: Path, build: Build) -> None:
    index, _ = build(folder, folder.parent / "index")
    make_0_1_0(index.root)
    manifest = read_manifest(index.root)
    assert manifest is not None
    assert [item.content for item in manifest.media()] == ["", "", ""]
    assert pc.all(pc.equal(manifest.table.column("content"), "")).as_py()
    assert manifest.states == index.items.states
