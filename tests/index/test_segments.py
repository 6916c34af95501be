"""The lists of an index's points: they grow in segments, and a reader sees whole ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.errors import InputError
from copytrace.features.variants import PLAIN
from copytrace.index import segments as segments_module
from copytrace.index.image_index import ImageIndex
from copytrace.index.image_segments import LARGEST_SEGMENT, LEAST_OF_IMAGE, index_segments, open_segments
from copytrace.index.point_places import IMAGE_SHIFT
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.shard_files import View
from copytrace.search.point_search import ListSearch
from copytrace.storage import remove_tree, resolve_path

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, Pixels], write_photos: WritePhotos) -> Path:
    return write_photos(tmp_path / "photos", photos)


def answers(index: ImageIndex) -> dict[str, float]:
    """Return for each image of an index the share of its own points whose nearest one is of the same image."""
    search = ListSearch.of(open_segments(index), shipped_quantizer(), lists_searched=16)
    shares = {}
    for shard in index.shards:
        for view in index.views(shard):
            shares[view.id] = float(np.mean(nearest_ids(search, view)[0] == view.id))
    return shares


def nearest_ids(search: ListSearch, view: View) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Return the image of the point nearest to each point of a view, and its distance as a share of that of chance."""
    found = search.search(view.points.descriptor, 4, [PLAIN])
    rank = found.distance.argmin(axis=1)
    rows = np.arange(len(rank))
    share = found.distance[rows, rank] / found.chance.astype(np.float64)
    order = np.lexsort((share, found.query))
    best = order[np.searchsorted(found.query[order], np.arange(len(view.points)))]
    ids = [search.ids[number].as_py() if number >= 0 else "" for number in found.image[best, rank[best]]]
    return np.array(ids), share[best]


def segments(index: ImageIndex) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, dict[str, Any]]] = json.loads(
        (index.root / "segments" / "segments.json").read_text("utf-8")
    )
    return content["segments"]


def test_every_image_is_found_by_its_own_points(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    assert min(answers(index).values()) > 0.95
    assert [sorted(map(int, shards)) for shards in (entry["shards"] for entry in segments(index).values())] == [
        index.shards
    ]


def test_images_without_points_do_not_make_a_segment_that_cannot_number_them(
    tmp_path: Path,
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    photos: dict[str, Pixels],
) -> None:
    plain = {f"plain{number}": np.full((60, 80, 3), 40 * number, np.uint8) for number in range(3)}
    index, _ = build_index(write_photos(tmp_path / "plain", plain), tmp_path / "a", "references", image_settings)
    sizes = [entry["size"] for entry in segments(index).values()]
    assert sum(sizes) == 3 * LEAST_OF_IMAGE
    assert np.iinfo(np.int64).max + 1 >= LARGEST_SEGMENT // LEAST_OF_IMAGE << IMAGE_SHIFT
    other, _ = build_index(write_photos(tmp_path / "photos", photos), tmp_path / "b", "references", image_settings)
    points = sum(other.point_count(shard) for shard in other.shards)
    assert sum(entry["size"] for entry in segments(other).values()) == points  # photographs have more


def test_lists_take_few_bytes_a_point(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    (segment,) = open_segments(index)
    assert segment.points.lists.ntotal == sum(index.point_count(shard) for shard in index.shards)
    assert segment.points.lists.code_size + 8 == 24  # faiss's number of a point holds its image and its place
    (file,) = (index.root / "segments").glob("*.points")
    assert (
        file.stat().st_size < 4096 * 768 + 32 * segment.points.lists.ntotal
    )  # a block of 32 points is the least of a list


@pytest.mark.parametrize("absorbed", [0, 100])
def test_an_index_that_grows_gets_a_segment_or_a_larger_one_and_finds_the_same(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
    absorbed: int,
) -> None:
    monkeypatch.setattr(segments_module, "ABSORBED", absorbed)
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    (first,) = segments(index)
    write_photos(folder, {"new": photos["coffee"][::-1].copy()})
    grown, _ = build_index(folder, index.root, "references", image_settings)
    assert (first in segments(grown)) == (absorbed == 0)
    assert len(segments(grown)) == (2 if absorbed == 0 else 1)
    assert len(list((index.root / "segments").glob("*.points"))) == len(segments(grown))
    whole, _ = build_index(folder, folder.parent / "whole", "references", image_settings)
    assert answers(grown) == answers(whole)


def test_of_points_equally_near_several_segments_find_those_that_one_finds(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments_module, "ABSORBED", 0)
    for number in range(6):
        same = {f"same{number}{each}": np.roll(photos["coffee"], 16 * each, axis=1) for each in range(2)}
        write_photos(folder, same)
        grown, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    whole, _ = build_index(folder, folder.parent / "whole", "references", image_settings)
    assert len(segments(grown)) > 4
    searches = [ListSearch.of(open_segments(each), shipped_quantizer(), lists_searched=16) for each in (grown, whole)]
    [view] = (view for shard in whole.shards for view in whole.views(shard) if view.id == "coffee")
    found = [each.search(view.points.descriptor, 6) for each in searches]
    names = [
        [each.ids[number].as_py() for number in one.image.ravel()] for each, one in zip(searches, found, strict=True)
    ]
    np.testing.assert_array_equal(found[0].distance, found[1].distance)
    assert names[0] == names[1]


def test_nothing_is_written_again_when_nothing_came(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    files = sorted((index.root / "segments").iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    index_segments(index.root)
    assert [file.stat().st_mtime_ns for file in files] == written


def test_removed_and_changed_images_are_not_found_as_they_were(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    views = {view.id: view for shard in index.shards for view in index.views(shard)}
    (folder / "rocket.png").unlink()
    write_photos(folder, {"coffee": photos["coffee"][::-1].copy()})
    left, _ = build_index(folder, index.root, "references", image_settings)
    search = ListSearch.of(open_segments(left), shipped_quantizer(), lists_searched=8)
    for gone in ("rocket", "coffee"):
        ids, share = nearest_ids(search, views[gone])
        assert "rocket" not in ids
        assert (share < 1).mean() < 0.3
    assert min(answers(left).values()) > 0.95


def test_a_reader_keeps_what_it_opened_while_a_writer_commits(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    search = ListSearch.of(open_segments(index), shipped_quantizer(), lists_searched=8)
    view = next(iter(index.views(index.shards[0])))
    before = search.search(view.points.descriptor, 4)
    write_photos(folder, {f"new{n}": np.roll(photos["coffee"], 40 * n, axis=1) for n in range(1, 4)})
    build_index(folder, index.root, "references", image_settings)
    after = search.search(view.points.descriptor, 4)
    np.testing.assert_array_equal(before.distance, after.distance)
    np.testing.assert_array_equal(before.image, after.image)


def test_a_writer_that_is_stopped_leaves_the_lists_as_they_were(
    folder: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    before = segments(index)
    write_photos(folder, {"new": photos["coffee"][::-1].copy()})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments_module, "write_record", stop)
        with pytest.raises(KeyboardInterrupt):
            build_index(folder, index.root, "references", image_settings)
    assert segments(index) == before
    with pytest.raises(
        InputError, match=r"lacks the segments that a search needs; .* copytrace index-images REFERENCES"
    ):
        open_segments(ImageIndex.open(index.root))  # the manifest has the new image
    index_segments(index.root)
    assert "new" in answers(ImageIndex.open(index.root))
    names = {path.stem for path in (index.root / "segments").glob("*.points")}
    assert names == set(segments(index))


def test_an_index_without_lists_says_how_to_make_them(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    remove_tree(index.root / "segments")
    with pytest.raises(InputError, match="lacks the segments"):
        open_segments(index)
    index_segments(index.root)
    assert len(open_segments(index)) == 1


def test_lists_in_a_store_are_those_on_disk(folder: Path, build_index: Build, image_settings: ImageSettings) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    remote = resolve_path("memory://point-lists/index")
    try:
        stored, _ = build_index(folder, remote, "references", image_settings)
        assert answers(stored) == answers(index)
    finally:
        remove_tree(remote)


def test_a_segment_of_a_shard_that_was_described_anew_does_not_count(
    folder: Path, build_index: Build, image_settings: ImageSettings
) -> None:
    index, _ = build_index(folder, folder.parent / "index", "references", image_settings)
    shutil.copytree(index.root / "segments", folder.parent / "kept")
    fewer = image_settings.local.reference_points.model_copy(update={"max_points": 20})
    other = image_settings.model_copy(
        update={"local": image_settings.local.model_copy(update={"reference_points": fewer})}
    )
    anew, _ = build_index(folder, index.root, "references", other, replace=True)
    remove_tree(index.root / "segments")
    shutil.copytree(folder.parent / "kept", index.root / "segments")
    with pytest.raises(InputError, match="lacks the segments"):
        open_segments(anew)
