"""Queries that are files among the references: no file is its own copy, under any of its names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.index.image_index import ImageIndex
from copytrace.index.manifest import Manifest
from copytrace.media.files import MediaItem
from copytrace.run_folder import ImageRunFolder
from copytrace.search.image_candidates import read_candidates, recall_images

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]


@pytest.fixture
def references(tmp_path: Path, photos: dict[str, Pixels], write_photos: Callable[..., Path]) -> Path:
    return write_photos(tmp_path / "references", {name: photos[name] for name in ("coffee", "chelsea")})


def test_a_file_with_two_names_is_not_its_own_copy_until_one_becomes_a_copy(
    references: Path, build_index: Build, image_settings: ImageSettings, tmp_path: Path
) -> None:
    (tmp_path / "queries").mkdir()
    upload = tmp_path / "queries" / "upload.png"
    upload.hardlink_to(references / "coffee.png")

    def found() -> tuple[set[str], list[int]]:
        searched, _ = build_index(references, tmp_path / "r", "references", image_settings)
        queries, described = build_index(upload.parent, tmp_path / "q", "queries", image_settings)
        path = recall_images(0, "global", queries.root, searched.root, ImageRunFolder(tmp_path / "out"), image_settings)
        return {candidate.reference_id for candidate in read_candidates([path])}, described

    assert found() == ({"chelsea"}, [0])
    upload.unlink()
    shutil.copy2(references / "coffee.png", upload)
    assert found() == ({"chelsea", "coffee"}, [])  # path, time and content are the same


def manifest(folder: str, contents: Mapping[str, str], inode: int = 1) -> Manifest:
    items = {
        name: (MediaItem(name, f"{folder}/{name}.jpg", f"9-9-9-{inode}", content), 0)
        for name, content in contents.items()
    }
    return Manifest.of(items, {})


def test_only_media_that_two_indexes_share_are_compared_by_their_places() -> None:
    ours, theirs = manifest("/q", {"a": "one", "b": "two"}), manifest("/r", {"c": "two", "d": "three"})
    assert ours.places_shared_with(theirs) == ["/q/b.jpg 1"]
    assert theirs.places_shared_with(ours) == ["/r/c.jpg 1"]
    assert ours.places_shared_with(manifest("/moved", {"d": "three"})) == []
    assert ours.places_shared_with(manifest("/q", {"a": "of another time"})) == ["/q/a.jpg 1"]
    many = manifest("/r", {f"{number:04}": f"content {number}" for number in range(50)} | {"z": "two"})
    assert ours.places_shared_with(many) == ["/q/b.jpg 1"]
    assert many.places_shared_with(ours) == ["/r/z.jpg 1"]


@pytest.mark.parametrize("count", [3, 3000])  # of media: a few ids are found by bisection among the latter
def test_the_rows_of_ids_are_those_of_the_manifest(count: int) -> None:
    held = manifest("/r", {f"{number:05}": "" for number in range(1, 2 * count, 2)})
    assert held.rows_of(["00005", "00000", "00002", "99999"]).tolist() == [2, -1, -1, -1]
    assert held.rows_of([f"{2 * count - 1:05}", "00001"]).tolist() == [count - 1, 0]
    assert held.rows_of([]).tolist() == []


def test_where_contents_are_not_known_all_places_count() -> None:
    known, unknown = manifest("/q", {"a": "one", "b": "two"}), manifest("/r", {"c": "", "d": "three"})
    assert known.places_shared_with(unknown) == ["/q/a.jpg 1", "/q/b.jpg 1"]
    assert unknown.places_shared_with(known) == ["/r/c.jpg 1"]


def test_a_digest_of_contents_changes_with_neither_place_nor_stamp() -> None:
    here, there = manifest("/q", {"a": "one"}), manifest("/moved", {"a": "one"}, inode=2)
    assert (here.digest, here.path_digest == there.path_digest) == (there.digest, False)
    assert manifest("/q", {"a": "two"}).digest != here.digest
    assert manifest("/q", {"a": ""}).digest != manifest("/q", {"a": ""}, inode=2).digest  # the stamp is all there is
