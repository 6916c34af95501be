from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from configs.videos import VideoSettings
from copytrace.errors import InputError
from copytrace.features.descriptors import load_descriptor
from copytrace.index.media_index import descriptors_path, receipt_path, write_index
from copytrace.index.plan_file import IndexPlan, Shard
from copytrace.index.shard_files import open_descriptor_writer
from copytrace.index.video_index import (
    PANE_SCHEMA,
    VIDEO_SCHEMA,
    FrameDescriptors,
    VideoFacts,
    VideoIndex,
    VideoPaths,
    video_provenance,
)
from copytrace.media.files import MediaItem
from copytrace.storage import write_json
from copytrace.tables import write_table

PROVENANCE = {"kind": "videos", "role": "queries", "descriptor": "by hand", "typical_noise": None}

Row = tuple[str, str, float]  # video, pane, start


def item(video: str, stamp: str = "1") -> MediaItem:
    return MediaItem(video, f"videos/{video}.mp4", stamp)


def write_shard(root: Path, number: int, videos: list[MediaItem], rows: list[Row]) -> Shard:
    """Write a shard in which row n has the vector (number, n), lasts a second, and fills the frame."""
    paths, ids, panes = VideoPaths.of(root, number), [row[0] for row in rows], [row[1] for row in rows]
    starts = np.array([row[2] for row in rows], np.float64)
    names, sizes = [video.id for video in videos], [320] * len(videos)
    facts = [names, [10.0 + number] * len(videos), sizes, [240] * len(videos)]
    write_table(paths.videos, pa.table(facts, schema=VIDEO_SCHEMA))
    boxes = [np.full(len(rows), side, np.float32) for side in (0, 0, 1, 1)]
    write_table(paths.panes, pa.table([ids, panes, starts, starts + 1, *boxes], schema=PANE_SCHEMA))
    write_json(receipt_path(root, number), {"failures": []})
    vectors = np.array([(number, row) for row in range(len(rows))], np.float32).reshape(-1, 2)
    with open_descriptor_writer(descriptors_path(root, number), 2) as writer:
        writer.add(ids, panes, vectors, np.stack([starts, starts + 1], axis=1))
    return Shard(number, tuple(videos), "")


@pytest.fixture
def index(tmp_path: Path) -> VideoIndex:
    """Three videos in two shards; `b` was described again in the second."""
    first = write_shard(
        tmp_path,
        0,
        [item("a"), item("b")],
        [("a", "whole", 0), ("a", "whole", 1), ("b", "whole", 0), ("b", "pane0", 0)],
    )
    plan = IndexPlan(tmp_path, PROVENANCE, {}, (first,))
    write_index(plan)
    second = write_shard(tmp_path, 1, [item("b", "2"), item("c")], [("b", "whole", 0.5), ("c", "whole", 0)])
    write_index(IndexPlan(tmp_path, PROVENANCE, {"a": (item("a"), 0)}, (second,)))
    return VideoIndex.open(tmp_path)


def test_frames_are_those_of_the_living_videos_of_a_shard(index: VideoIndex):
    first, second = index.frames(0), index.frames(1)
    assert first.ids == ("a", "a")
    np.testing.assert_array_equal(first.times, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(first.vectors, [[0, 0], [0, 1]])
    assert second.ids == ("b", "c")
    np.testing.assert_array_equal(second.times, [[0.5, 1.5], [0, 1]])


def test_vectors_and_counts_are_those_of_frames(index: VideoIndex):
    for shard in index.shards:
        frames = index.frames(shard)
        np.testing.assert_array_equal(index.vectors(shard), frames.vectors)
        assert [identity for identity, count in index.frame_counts(shard) for _ in range(count)] == list(frames.ids)


def test_facts_of_a_video_are_those_of_its_living_shard(index: VideoIndex):
    assert index.facts() == {
        "a": VideoFacts(10.0, 320, 240),
        "b": VideoFacts(11.0, 320, 240),
        "c": VideoFacts(11.0, 320, 240),
    }


def test_boxes_of_panes_are_those_of_the_living_videos(index: VideoIndex):
    assert index.pane_boxes(0).column("id").to_pylist() == ["a", "a"]
    assert index.pane_boxes(1).to_pylist()[0] == {
        **{"id": "b", "pane": "whole", "start": 0.5, "end": 1.5},
        **{"x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0},
    }


def test_a_video_without_frames_is_in_the_index_and_has_no_rows(tmp_path: Path):
    shard = write_shard(tmp_path, 0, [item("a")], [])
    write_index(IndexPlan(tmp_path, PROVENANCE, {}, (shard,)))
    index = VideoIndex.open(tmp_path)
    frames = index.frames(0)
    assert (frames.ids, frames.times.shape, frames.vectors.shape) == ((), (0, 2), (0, 2))
    assert frames.rows_of_videos() == {}
    assert index.frame_counts(0) == []
    assert list(index.facts()) == ["a"]


def test_the_rows_of_each_video_are_a_slice_and_a_part_has_just_them():
    frames = FrameDescriptors(
        ids=("b", "a", "a"),
        panes=("whole", "whole", "pane0"),
        times=np.array([[0, 1], [0, 1], [1, 2.0]]),
        vectors=np.eye(3, dtype=np.float32),
    )
    assert frames.rows_of_videos() == {"b": slice(0, 1), "a": slice(1, 3)}
    part = frames.part(slice(1, 3))
    assert (part.ids, part.panes) == (("a", "a"), ("whole", "pane0"))
    np.testing.assert_array_equal(part.times, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(part.vectors, [[0, 1, 0], [0, 0, 1]])


def test_an_index_of_images_is_refused_with_the_cure(tmp_path: Path):
    write_index(IndexPlan(tmp_path, {"kind": "images", "role": "references"}, {}, ()))
    with pytest.raises(InputError, match=r"is an index of images, and one of videos is needed; .*index-videos"):
        VideoIndex.open(tmp_path)


def test_only_settings_that_decide_what_an_index_holds_change_its_settings():
    descriptor = load_descriptor(device="cpu")

    def made(role: str, **changes: dict[str, object]) -> dict[str, object]:
        return video_provenance(VideoSettings.model_validate(changes), role, descriptor, None)

    plain = made("references")
    assert made("references", frames={"query_side": 200}, search={"hits_per_frame": 9}) == plain
    assert made("references", panes={"max_panes": 1}, media={"shard_size": 3}) == plain
    assert made("references", frames={"per_second": 2}) != plain
    assert made("queries", panes={"max_panes": 1}) != made("queries")
    assert made("queries", frames={"reference_side": 200}) == made("queries")
