"""Compaction: what was removed is erased, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.videos import FrameSearchSettings, VideoSettings
from copytrace.checked_files import read_record, write_record
from copytrace.cli import app
from copytrace.errors import InputError
from copytrace.index import compaction, media_index, segments, video_segments
from copytrace.index.compaction import compact_index, erase_removed
from copytrace.index.image_index import ImageIndex
from copytrace.index.image_segments import open_segments
from copytrace.index.media_index import receipt_path
from copytrace.index.point_quantizer import shipped_quantizer
from copytrace.index.video_index import VideoIndex
from copytrace.search.frame_search import load_frame_search
from copytrace.search.point_search import ListSearch
from copytrace.videos import index_videos

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


@pytest.fixture
def index(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> ImageIndex:
    """Return an index from whose first shard an image was removed."""
    folder = write_photos(tmp_path / "photos", photos)
    built, _ = build_index(folder, tmp_path / "index", "references", image_settings)
    (folder / f"{built.ids_in(built.shards[0])[0]}.png").unlink()
    return build_index(folder, built.root, "references", image_settings)[0]


def contents(index: ImageIndex) -> dict[str, tuple[bytes, bytes, bytes]]:
    held = {}
    for shard in index.shards:
        described = index.descriptors(shard)
        for view in index.views(shard):
            vector = described.vectors[described.ids.index(view.id)]
            held[view.id] = (vector.tobytes(), view.points.descriptor.tobytes(), view.points.x.tobytes())
    return held


def ids_on_disk(root: Path) -> set[str]:
    files = [*root.glob("descriptors/*.parquet"), *root.glob("points/*.parquet"), *root.glob("views/*.parquet")]
    return {identity for file in files for identity in pq.read_table(file, columns=["id"]).column("id").to_pylist()}


def test_removed_images_are_erased_and_the_others_stay_as_they_were(index: ImageIndex) -> None:
    before, fingerprint = contents(index), index.fingerprint
    assert len(ids_on_disk(index.root)) == len(index.items) + 1
    assert erase_removed(index) == 1
    after = ImageIndex.open(index.root)
    assert ids_on_disk(index.root) == set(after.items)
    assert contents(after) == before
    assert after.fingerprint == fingerprint
    assert sorted(after.items.states) == after.shards
    assert erase_removed(after) == 0


def test_compaction_leaves_one_segment_that_finds_the_same(
    index: ImageIndex,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "ABSORBED", 0)
    folder = write_photos(index.root.parent / "photos", {"new": photos["coffee"][::-1].copy()})
    build_index(folder, index.root, "references", image_settings)
    views = [view for shard in index.shards for view in index.views(shard)]

    def nearest() -> list[NDArray[np.float32]]:
        search = ListSearch.of(open_segments(ImageIndex.open(index.root)), shipped_quantizer(), lists_searched=8)
        found = [search.search(view.points.descriptor, 32) for view in views]  # among them points of what was removed
        return [each.distance[:, :4] for each in found]

    before = nearest()
    assert len(open_segments(ImageIndex.open(index.root))) == 2
    compacted = compact_index(index.root)
    assert len(open_segments(ImageIndex.open(index.root))) == 1
    assert len(compacted.items) == 4
    for now, then in zip(nearest(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    files = sorted(index.root.glob("[!.]*/*"))
    compact_index(index.root)
    assert sorted(index.root.glob("[!.]*/*")) == files


def test_a_folder_that_is_no_index_is_not_compacted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an index; make one with copytrace index-images or index-videos"):
        compact_index(tmp_path)


def test_a_compacted_index_grows_and_nothing_is_described_again(
    index: ImageIndex,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> None:
    erase_removed(index)
    shards = ImageIndex.open(index.root).shards
    folder = write_photos(index.root.parent / "photos", {"new": photos["coffee"][::-1].copy()})
    grown, described = build_index(folder, index.root, "references", image_settings)
    assert described == [shard for shard in grown.shards if shard not in shards]
    assert grown.items["new"][1] in described
    assert len(grown.items) == 4


def test_a_compaction_that_is_stopped_leaves_the_index_as_it_was(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, items = contents(index), dict(index.items)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            erase_removed(index)
    again = ImageIndex.open(index.root)
    assert (contents(again), dict(again.items)) == (before, items)
    assert erase_removed(again) == 1
    assert contents(ImageIndex.open(index.root)) == before


@pytest.mark.parametrize("kept", [0, 1])
def test_what_a_compaction_left_that_was_killed_while_it_erased_is_erased_by_the_next(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    removed = ids_on_disk(index.root) - set(index.items)

    def stop(path: Path) -> None:
        if path.parent.name in {"receipts", "points"} and path.stem not in held:
            stopped.append(path)
            if len(stopped) > kept:
                raise KeyboardInterrupt
        path.unlink(missing_ok=True)

    held = {f"{shard:05}" for shard in index.shards[1:]}
    stopped: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(media_index, "remove_file", stop)
        with pytest.raises(KeyboardInterrupt):
            compact_index(index.root)
    assert ids_on_disk(index.root) >= removed
    compact_index(index.root)
    assert ids_on_disk(index.root) == set(ImageIndex.open(index.root).items)


def test_segments_that_a_killed_compaction_left_are_erased_by_the_next(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path) -> None:
        if path.suffix == ".npy":
            raise KeyboardInterrupt
        path.unlink(missing_ok=True)

    compact_index(index.root)
    before = {path.name for path in (index.root / "segments").glob("*.npy")}
    index.root.joinpath("segments", "cost.json").unlink()
    index.root.joinpath("segments", "segments.json").unlink()
    (index.root / "segments" / "0123456789abcdef.npy").write_bytes(b"of an earlier segment")
    with monkeypatch.context() as patch:
        patch.setattr(segments, "remove_file", stop)
        with pytest.raises(KeyboardInterrupt):
            compact_index(index.root)
    assert {path.name for path in (index.root / "segments").glob("*.npy")} > before
    compact_index(index.root)
    assert {path.name for path in (index.root / "segments").glob("*.npy")} == before


def test_points_are_still_read_a_few_images_at_a_time(index: ImageIndex) -> None:
    file = index.root / "points" / f"{index.shards[0]:05}.parquet"
    rows = pq.read_metadata(file).row_group(0).num_rows
    erase_removed(index)
    for compacted in (index.root / "points").glob("*.parquet"):
        metadata = pq.read_metadata(compacted)
        assert all(metadata.row_group(group).num_rows <= rows for group in range(metadata.num_row_groups))


@pytest.fixture
def videos(tmp_path: Path, tour: Callable[..., list[Pixels]], write_video: Callable[..., Path]) -> Path:
    """Return a folder of three videos, each of which is copied partly in one of the others."""
    tours = {name: tour(name) for name in ("astronaut", "chelsea", "coffee")}
    for name, other in zip(tours, ("chelsea", "coffee", "astronaut"), strict=True):
        write_video(tmp_path / "videos" / f"{name}.mp4", [*tours[name], *tours[other][10:30]])
    return tmp_path / "videos"


def index_of_videos(folder: Path, root: Path) -> VideoIndex:
    settings = VideoSettings.model_validate({"media": {"shard_size": 2}, "panes": {"detector": "none"}})
    return VideoIndex.open(index_videos(folder, root, settings))


def frames_of(index: VideoIndex) -> dict[str, tuple[bytes, list[list[float]]]]:
    held = {}
    for shard in index.shards:
        frames = index.frames(shard)
        for video, rows in frames.rows_of_videos().items():
            held[video] = (frames.vectors[rows].tobytes(), frames.times[rows].tolist())
    return held


def test_removed_videos_are_erased_and_the_others_stay_and_are_found_as_they_were(
    use_grid_descriptor: None,
    videos: Path,
    tour: Callable[..., list[Pixels]],
    write_video: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "ABSORBED", 0)
    root = tmp_path / "index"
    whole = index_of_videos(videos, root)
    query = whole.frames(whole.shard_of("chelsea")).vectors
    assert whole.shard_of("astronaut") == whole.shard_of("chelsea")
    (videos / "astronaut.mp4").unlink()
    write_video(videos / "later.mp4", tour("rocket"))
    before = index_of_videos(videos, root)

    def hits(index: VideoIndex) -> list[tuple[float, str]]:
        search = load_frame_search(index, FrameSearchSettings())
        found = search.nearest_of_others(query, np.zeros((len(query), 0), np.int32), 8)
        named = search.ids.take(pa.array(found.videos.ravel())).to_pylist()
        return sorted(zip(found.cosines.ravel().round(5).tolist(), named, strict=True))

    expected, held, facts = hits(before), frames_of(before), before.facts()
    assert len(video_segments.open_segments(before)) == 2
    after = compact_index(root)
    assert isinstance(after, VideoIndex)
    assert hits(after) == expected
    assert (frames_of(after), after.facts(), after.fingerprint) == (held, facts, before.fingerprint)
    assert len(video_segments.open_segments(after)) == 1
    assert "astronaut" not in names_on_disk(root)
    shutil.copy(videos / "coffee.mp4", videos / "last.mp4")
    assert set(frames_of(index_of_videos(videos, root))) == {"chelsea", "coffee", "later", "last"}


def names_on_disk(root: Path) -> set[str]:
    """Return the ids in all tables of an index, whatever they hold."""
    tables = [pq.read_table(path) for path in root.rglob("*.parquet") if path.parent != root]
    return {identity for table in tables for identity in table.column("id").to_pylist()}


def test_a_removed_video_without_frames_is_erased_too(use_grid_descriptor: None, videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "index"
    shard = index_of_videos(videos, root).shard_of("astronaut")
    path = root / "descriptors" / f"{shard:05}.parquet"
    pq.write_table(pq.read_table(path, filters=[("id", "!=", "astronaut")]), path)
    receipt = receipt_path(root, shard)
    write_record(receipt, read_record(receipt) | {"checksums": {}})  # as if the shard had been written so
    (videos / "astronaut.mp4").unlink()
    index_of_videos(videos, root)
    compact_index(root)
    assert names_on_disk(root) == {"chelsea", "coffee"}


def test_the_command_compacts_an_index_of_videos(use_grid_descriptor: None, videos: Path, tmp_path: Path) -> None:
    index_of_videos(videos, tmp_path / "index")
    result = CliRunner().invoke(app, ["compact-index", str(tmp_path / "index")])
    assert (result.exit_code, result.stdout.strip()) == (0, f"3 videos are in {tmp_path / 'index'}")


def test_the_command_compacts_an_index(index: ImageIndex) -> None:
    result = CliRunner().invoke(app, ["compact-index", str(index.root)])
    assert (result.exit_code, result.stdout.strip()) == (0, f"3 images are in {index.root}")
    assert ids_on_disk(index.root) == set(index.items)
