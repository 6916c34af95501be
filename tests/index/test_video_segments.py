"""The segments of an index of videos: they grow, and a reader sees whole ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.exchange.npz_exchange import import_npz
from copytrace.exchange.npz_files import write_npz
from copytrace.index import segments as segments_module
from copytrace.index import video_segments
from copytrace.index.frame_lists import build_frame_lists
from copytrace.index.media_index import descriptors_path, receipt_path, write_index
from copytrace.index.plan_file import IndexPlan, Shard
from copytrace.index.shard_files import open_descriptor_writer
from copytrace.index.video_index import VideoIndex
from copytrace.index.video_segments import Segment, index_segments, open_segments
from copytrace.media.files import MediaItem
from copytrace.search.list_search import search_lists
from copytrace.search.nearest_hits import NearestHits
from copytrace.storage import remove_tree, resolve_path, write_json

PROVENANCE = {"kind": "videos", "role": "references", "descriptor": "by hand", "frames_per_second": 1.0}
NUMBERS = 16


class Library:
    """An index to which videos are added, a shard at a time, with random vectors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shards = 0

    def add(self, frames: Mapping[str, int], *, without: Collection[str] = ()) -> VideoIndex:
        """Describe videos anew, with so many frames each, remove others, and return the index without new segments."""
        number, self._shards = self._shards, self._shards + 1
        random = np.random.default_rng(number)
        with open_descriptor_writer(descriptors_path(self.root, number), NUMBERS) as writer:
            for video, count in frames.items():
                vectors = random.normal(size=(count, NUMBERS)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                writer.add([video] * count, ["whole"] * count, vectors, np.zeros((count, 2)))
        write_json(receipt_path(self.root, number), {"fingerprint": f"shard {number}", "failures": []})
        held = VideoIndex.open(self.root).items.as_dict() if number else {}
        kept = {video: held[video] for video in held.keys() - frames.keys() - set(without)}
        items = tuple(MediaItem(video, f"{video}.mp4", str(number)) for video in sorted(frames))
        write_index(IndexPlan(self.root, PROVENANCE, kept, (Shard(number, items, ""),)))
        return VideoIndex.open(self.root)

    def index(self, frames: Mapping[str, int], *, without: Collection[str] = ()) -> VideoIndex:
        """Do the same, and bring the segments up to date."""
        index = self.add(frames, without=without)
        index_segments(self.root)
        return index


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "index")


def vectors_in(segments: Collection[Segment]) -> dict[str, list[list[float]]]:
    """Return the vectors of each current video of segments."""
    found: dict[str, list[list[float]]] = {}
    for segment in segments:
        for number in np.flatnonzero(segment.current):
            rows = slice(segment.starts[number], segment.starts[number + 1])
            video = segment.ids[int(number)].as_py()
            assert video not in found
            found[video] = segment.vectors[rows].tolist()
    return found


def described(index: VideoIndex) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {video: [] for video in index.items}
    for shard in index.shards:
        frames = index.frames(shard)
        half: NDArray[np.float16] = frames.vectors.astype(np.float16)
        found |= {video: half[rows].tolist() for video, rows in frames.rows_of_videos().items()}
    return found


def names(index: VideoIndex) -> set[str]:
    return set(json.loads((index.root / "segments" / "segments.json").read_text("utf-8"))["segments"])


def files(index: VideoIndex) -> set[str]:
    return {path.stem for path in (index.root / "segments").glob("*.npy")}


def test_a_segment_has_the_frames_of_its_videos_in_half_precision(library: Library) -> None:
    library.add({"b": 3, "a": 2})
    index = library.index({"c": 1, "none": 0})
    (segment,) = open_segments(index)
    assert segment.ids.to_pylist() == ["b", "a", "c", "none"]
    assert segment.starts.tolist() == [0, 3, 5, 6, 6]
    assert isinstance(segment.vectors, np.memmap)
    assert (segment.vectors.dtype, segment.lists) == (np.float16, None)
    assert vectors_in([segment]) == described(index)


@pytest.mark.parametrize("absorbed", [0, 100])
def test_an_index_that_grows_gets_a_segment_or_a_larger_one(
    library: Library, monkeypatch: pytest.MonkeyPatch, absorbed: int
) -> None:
    monkeypatch.setattr(segments_module, "ABSORBED", absorbed)
    first = names(library.index({"a": 4, "b": 5}))
    grown = library.index({"c": 2})
    assert (first < names(grown)) == (absorbed == 0)
    assert len(names(grown)) == (2 if absorbed == 0 else 1)
    assert files(grown) == names(grown)
    assert vectors_in(open_segments(grown)) == described(grown)


def test_a_segment_grows_no_larger_than_it_may(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_segments._VideoContent, "largest", 10)
    for number in range(4):
        library.add({f"v{number}": 4})
    index = library.index({"long": 12})
    assert sorted(len(segment.vectors) for segment in open_segments(index)) == [8, 8, 12]
    assert vectors_in(open_segments(index)) == described(index)


def test_nothing_is_written_again_when_nothing_came(library: Library) -> None:
    index = library.index({"a": 4})
    written = {path: path.stat().st_mtime_ns for path in (index.root / "segments").iterdir()}
    index_segments(index.root)
    assert {path: path.stat().st_mtime_ns for path in (index.root / "segments").iterdir()} == written


def test_removed_and_changed_videos_do_not_count_as_they_were(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "ABSORBED", 0)
    before = names(library.index({"a": 3, "removed": 2, "changed": 4, "none": 0}))
    left = library.index({"changed": 5}, without=["removed"])
    assert before < names(left)
    assert vectors_in(open_segments(left)) == described(left)
    assert set(vectors_in(open_segments(left))) == {"a", "changed", "none"}


def test_a_reader_keeps_what_it_opened_while_a_writer_commits(library: Library) -> None:
    index = library.index({"a": 3, "b": 2})
    opened, before, written = open_segments(index), described(index), files(index)
    grown = library.index({"a": 4, "c": 9})
    assert files(grown).isdisjoint(written)
    assert vectors_in(opened) == before
    assert vectors_in(open_segments(grown)) == described(grown)


def test_segments_are_opened_once_until_they_change(library: Library) -> None:
    index = library.index({"a": 3})
    assert open_segments(VideoIndex.open(index.root)) is open_segments(index)
    assert open_segments(library.index({"b": 1})) is not open_segments(index)


def test_segments_of_an_earlier_state_of_an_index_are_closed(library: Library) -> None:
    opened: list[str] = []
    for number in range(4):
        index = library.index({f"new{number}": 3, "changed": number + 1})
        open_segments(index)
        kept = {str(path) for path in (index.root / "segments").iterdir()}
        opened = [each.path for each in psutil.Process().memory_maps(grouped=False) if str(index.root) in each.path]
        assert kept.issuperset(opened)
    assert opened


def test_a_writer_that_is_stopped_leaves_the_segments_as_they_were(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(library.index({"a": 3}))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments_module, "write_record", stop)
        with pytest.raises(KeyboardInterrupt):
            library.index({"b": 2})
    index = VideoIndex.open(library.root)  # it has the new video
    assert names(index) == before
    with pytest.raises(InputError, match=r"lacks the segments .* copytrace index-videos REFERENCES --out"):
        open_segments(index)
    index_segments(index.root)
    assert vectors_in(open_segments(index)) == described(index)
    assert files(index) == names(index)


def test_imported_descriptors_have_segments_or_say_how_to_get_them(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "file.npz", ["a", "a"], np.float64([[0, 1], [1, 2]]), np.eye(2, dtype=np.float32))
    index = import_npz(path, tmp_path / "index", "references", model="by hand")
    assert vectors_in(open_segments(index)) == described(index)
    remove_tree(index.root / "segments")
    with pytest.raises(InputError, match=r"lacks the segments .* copytrace import-descriptors"):
        open_segments(index)


def test_an_index_of_queries_is_not_what_is_searched(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "file.npz", ["a"], np.float64([[0, 1]]), np.eye(2, dtype=np.float32)[:1])
    index = import_npz(path, tmp_path / "index", "queries", model="by hand")
    write_json(index.root / "index.json", index.provenance | {"frames_per_second": 1.0})
    with pytest.raises(InputError, match="copytrace index-videos REFERENCES --out FOLDER, a new folder"):
        open_segments(VideoIndex.open(index.root))


def test_segments_in_a_store_are_those_on_disk(library: Library) -> None:
    remote = Library(resolve_path("memory://video-segments/index"))
    try:
        frames = {"a": 3, "b": 2}
        assert vectors_in(open_segments(remote.index(frames))) == vectors_in(open_segments(library.index(frames)))
    finally:
        remove_tree(remote.root)


def test_a_large_segment_has_lists_that_are_those_built_anew(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_segments, "SMALLEST_WITH_LISTS", 400)
    (segment,) = open_segments(library.index({"a": 300, "b": 100}))
    queries = segment.vectors[::40].astype(np.float32)
    stored, anew = (NearestHits(len(queries), 5) for _ in range(2))
    search_lists(stored, segment.lists, queries, 3)
    search_lists(anew, build_frame_lists(np.array(segment.vectors)), queries, 3)
    for found, expected in zip(stored.sorted(), anew.sorted(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert stored.sorted()[1][:, 0].tolist() == list(range(0, 400, 40))
