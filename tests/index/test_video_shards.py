from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.index.media_index import Role, descriptors_path
from copytrace.index.shard_files import table_vectors
from copytrace.index.video_index import PANE_SCHEMA, VIDEO_SCHEMA, VideoPaths, describe_videos, plan_videos
from copytrace.media.failures import Failure
from tests.grid_models import GridDescriptor

Pixels = NDArray[np.uint8]
Tour = Callable[..., list[Pixels]]
WriteVideo = Callable[..., Path]


class Described(NamedTuple):
    """The videos of a shard that could not be read, and those that were read only in part."""

    failures: list[Failure]
    damaged: list[Failure]


Describe = Callable[..., Described]


def quick(**sections: dict[str, Any]) -> VideoSettings:
    return VideoSettings.model_validate({"panes": {"detector": "none"}, **sections})


@pytest.fixture
def describe(use_grid_descriptor: None, tmp_path: Path) -> Describe:
    """Return a function that describes all videos of a folder as shard 0 of an index at `root`."""

    def work(folder: Path, role: Role, settings: VideoSettings, root: Path = tmp_path / "index") -> Described:
        plan_videos(str(folder), root, role, settings, replace=False)
        receipt = json.loads(describe_videos(root, 0, settings).read_text())
        return Described(*([Failure(**row) for row in receipt[name]] for name in ("failures", "damaged")))

    return work


def rows_of(root: Path) -> list[tuple[str, str, float, float]]:
    table = pq.read_table(descriptors_path(root, 0), columns=["id", "pane", "start", "end"])
    return list(zip(*table.to_pydict().values(), strict=True))


def vectors(root: Path) -> NDArray[np.float32]:
    return table_vectors(pq.read_table(descriptors_path(root, 0)))


def side_by_side(left: Sequence[Pixels], right: Sequence[Pixels]) -> list[Pixels]:
    return [np.hstack(pair) for pair in zip(left, right, strict=True)]


def test_each_second_of_a_reference_is_a_row(
    tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path
) -> None:
    write_video(tmp_path / "in" / "b.mp4", tour("coffee")[:10])
    write_video(tmp_path / "in" / "a.mp4", tour("chelsea")[:8], rate=8)
    done = describe(tmp_path / "in", "references", quick())
    root = tmp_path / "index"
    assert (done.failures, done.damaged) == ([], [])
    whole = [("b", "whole", 0.0, 1.0), ("b", "whole", 1.0, 2.0), ("b", "whole", 2.0, 2.5)]
    assert rows_of(root) == [("a", "whole", 0.0, 1.0), *whole]
    np.testing.assert_allclose(np.linalg.norm(vectors(root), axis=1), 1, atol=1e-5)
    facts = pq.read_table(VideoPaths.of(root, 0).videos)
    assert facts.schema.remove_metadata() == VIDEO_SCHEMA
    assert facts.to_pylist() == [
        {"id": "a", "duration": 1.0, "width": 128, "height": 96},
        {"id": "b", "duration": 2.5, "width": 128, "height": 96},
    ]
    assert pq.read_table(VideoPaths.of(root, 0).panes).to_pylist() == []


def test_panes_of_a_query_are_rows_beside_the_whole_frame(
    tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path
) -> None:
    write_video(tmp_path / "in" / "two.mp4", side_by_side(tour("coffee"), tour("astronaut")))
    for name in ("coffee", "astronaut"):
        write_video(tmp_path / "alone" / f"{name}.mp4", tour(name))
    describe(tmp_path / "in", "queries", quick())
    describe(tmp_path / "alone", "references", quick(), tmp_path / "alone-index")

    rows = rows_of(tmp_path / "index")
    names = {pane for _, pane, _, _ in rows}
    assert {"whole", "pane0", "pane1"} <= names
    for pane in names:
        starts = [start for _, name, start, _ in rows if name == pane]
        assert starts == sorted(set(starts))
    boxes = pq.read_table(VideoPaths.of(tmp_path / "index", 0).panes)
    assert boxes.schema.remove_metadata() == PANE_SCHEMA
    assert [(row["id"], row["pane"], row["start"], row["end"]) for row in boxes.to_pylist()] == rows
    halves = {row["pane"]: (row["x0"], row["x1"]) for row in boxes.to_pylist() if row["start"] == 5}
    assert halves["whole"] == (0, 1)
    assert sorted(halves[pane] for pane in ("pane0", "pane1")) == [
        pytest.approx((0, 0.5), abs=0.03),
        pytest.approx((0.5, 1), abs=0.03),
    ]
    # The pane on the right shows what the astronaut alone shows, second by second.
    right = max(("pane0", "pane1"), key=lambda pane: halves[pane])
    shown = vectors(tmp_path / "index")[[row for row, (_, pane, _, _) in enumerate(rows) if pane == right]]
    alone = vectors(tmp_path / "alone-index")[:12]
    assert np.diag(shown @ alone.T).min() > 0.85


def test_neither_window_nor_batch_nor_threads_change_the_whole_frames(
    tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path
) -> None:
    for name in ("coffee", "chelsea", "rocket"):
        write_video(tmp_path / "in" / f"{name}.mp4", tour(name))
    found = []
    for number, settings in enumerate(
        [
            quick(media={"threads": 1}),
            quick(media={"threads": 3}),
            quick(frames={"window": 8}, descriptor={"batch_size": 5}),
        ]
    ):
        root = tmp_path / str(number)
        describe(tmp_path / "in", "references", settings, root)
        found.append((rows_of(root), vectors(root)))
    assert len(found[0][0]) == 36
    for rows, described in found[1:]:
        assert rows == found[0][0]
        np.testing.assert_array_equal(described, found[0][1])


def test_what_comes_before_damage_is_described_and_the_damage_listed(
    tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "in" / "cut.mkv", tour("coffee"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "in" / "text.mkv").write_text("not a video")
    write_video(tmp_path / "in" / "whole.mkv", tour("chelsea")[:8])
    done = describe(tmp_path / "in", "queries", quick(frames={"window": 8}))
    assert [(failure.id, failure.stage) for failure in done.failures] == [("text", "decode")]
    (cut,) = done.damaged
    assert (cut.id, cut.path) == ("cut", str(path))
    assert "as if cut short; used up to there" in cut.error
    ends = [end for identity, pane, _, end in rows_of(tmp_path / "index") if (identity, pane) == ("cut", "whole")]
    assert 3 < max(ends) < 9
    assert {row["id"] for row in pq.read_table(VideoPaths.of(tmp_path / "index", 0).videos).to_pylist()} == {
        "cut",
        "whole",
    }
    assert {identity for identity, *_ in rows_of(tmp_path / "index")} == {"cut", "whole"}


@pytest.mark.parametrize("role", ["queries", "references"])
def test_a_video_whose_pictures_change_their_size_is_described_to_its_end(
    role: Role, tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path
) -> None:
    pictures = tour("coffee")
    half, smaller = len(pictures) // 2, [cv2.resize(picture, (80, 120)) for picture in pictures]
    first = write_video(tmp_path / "parts" / "a.h264", pictures[:half], codec="libx264")
    second = write_video(tmp_path / "parts" / "b.h264", smaller[half:], codec="libx264")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "both.h264").write_bytes(first.read_bytes() + second.read_bytes())
    write_video(tmp_path / "in" / "other.mp4", tour("chelsea")[:8])
    assert describe(tmp_path / "in", role, quick()) == ([], [])
    ends = {identity: end for identity, pane, _, end in rows_of(tmp_path / "index") if pane == "whole"}
    seconds = pq.read_table(VideoPaths.of(tmp_path / "index", 0).videos).to_pydict()
    assert ends == dict(zip(seconds["id"], seconds["duration"], strict=True))
    assert set(ends) == {"both", "other"}


def test_a_shard_that_nobody_can_read_is_written_empty(describe: Describe, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.mp4").write_text("not a video")
    done = describe(tmp_path / "in", "queries", quick())
    assert [failure.id for failure in done.failures] == ["text"]
    assert rows_of(tmp_path / "index") == []


MEMORY = """
import json, re, sys
from pathlib import Path
import numpy as np
from configs.videos import VideoSettings
from copytrace.features.resize import SquareInput
from copytrace.index import video_index


class Mean(SquareInput):
    name, digest, dimensions, input_size, typical_noise = "mean", "mean", 3, 64, None

    def describe(self, batch):
        vectors = batch.mean(axis=(1, 2)).astype(np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


settings = VideoSettings.model_validate(
    {"panes": {"detector": "none"}, "media": {"threads": 1}, "frames": {"window": 16}}
)
video_index.load_video_models = lambda descriptor, detector: (Mean(), None)
for source, root in zip(sys.argv[1::2], map(Path, sys.argv[2::2])):
    video_index.plan_videos(source, root, "queries", settings, replace=False)
    receipt = json.loads(video_index.describe_videos(root, 0, settings).read_text())
    assert not receipt["failures"] and not receipt["damaged"], receipt
    # Not `ru_maxrss`, which is that of the process that started this one if that was larger.
    print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process itself")
def test_memory_does_not_grow_with_the_length_of_a_video(tour: Tour, write_video: WriteVideo, tmp_path: Path) -> None:
    scenes = [picture for name in ("coffee", "chelsea", "rocket") for picture in tour(name, 512, 384)[:2]]
    lengths, command = (20, 180), [sys.executable, "-c", MEMORY]
    for seconds in lengths:
        pictures = [scenes[second // 20 % len(scenes)] for second in range(seconds)]
        path = write_video(tmp_path / f"{seconds}.mp4", pictures, rate=1)
        command += [str(path), str(tmp_path / f"index{seconds}")]
    # The long video comes after the short one, so that the process has loaded all that both need.
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    for length in lengths:
        seconds = {start for _, pane, start, _ in rows_of(tmp_path / f"index{length}") if pane == "whole"}
        assert len(seconds) == length
    # All pictures of the long video would be 101 MiB at once, and 90 more than those of the short one.
    short, long = map(int, done.stdout.split())
    assert long < short + 40, f"{short} and {long} MiB"


def test_a_picture_that_stands_is_described_once_and_its_rows_are_those_of_each_second(
    tour: Tour, write_video: WriteVideo, describe: Describe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()
    described = GridDescriptor.describe

    def count(self: GridDescriptor, batch: Pixels) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return described(self, batch)

    monkeypatch.setattr(GridDescriptor, "describe", count)
    plain = np.full((96, 128, 3), 128, np.uint8)
    write_video(tmp_path / "in" / "a.mp4", [plain] * 40, rate=1)
    write_video(tmp_path / "in" / "b.mp4", tour("chelsea")[:12], rate=4)
    describe(tmp_path / "in", "references", quick(frames={"window": 8}))
    assert rows_of(tmp_path / "index")[:40] == [("a", "whole", float(at), at + 1.0) for at in range(40)]
    assert len(vectors(tmp_path / "index")) == 43
    assert (sum(sizes[:-1]), sizes[-1]) == (1, 3)
