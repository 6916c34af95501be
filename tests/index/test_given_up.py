"""Files whose decoding was given up are not decoded again, until they change or may cost more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.images import ImageSettings
from configs.settings import MediaSettings
from configs.videos import VideoSettings
from copytrace.checked_files import read_record, write_record
from copytrace.errors import DecodingLimitError, MediaError
from copytrace.index import video_index
from copytrace.index.given_up import GivenUpFiles
from copytrace.index.media_index import finish_index
from copytrace.media.failures import read_failures
from copytrace.media.files import MediaItem

ITEM = MediaItem("a", "/a.jpg", "12-34")
BOMB = (4000, 4000)  # pixels; too many for the memory that these tests allow
TOO_MUCH = "needs more than 64 MiB of memory to decode (media.max_memory)"


def refuse(item: MediaItem) -> None:
    raise DecodingLimitError("the decoder crashed (signal 11)")


def test_a_file_that_was_given_up_is_not_loaded_again(tmp_path: Path) -> None:
    with pytest.raises(DecodingLimitError):
        GivenUpFiles(tmp_path, MediaSettings()).guard(refuse)(ITEM)
    loaded: list[MediaItem] = []
    guarded = GivenUpFiles(tmp_path, MediaSettings()).guard(loaded.append)
    with pytest.raises(DecodingLimitError, match=r"^the decoder crashed \(signal 11\)$"):
        guarded(ITEM)
    guarded(replace(ITEM, path="/b.jpg"))
    assert [item.path for item in loaded] == ["/b.jpg"]


@pytest.mark.parametrize(
    ("item", "settings"),
    [
        (replace(ITEM, stamp="12-35"), MediaSettings()),
        (ITEM, MediaSettings(max_seconds=90)),
        (ITEM, MediaSettings(max_memory=8192)),
    ],
)
def test_a_file_that_changed_or_may_cost_more_is_tried_again(
    tmp_path: Path, item: MediaItem, settings: MediaSettings
) -> None:
    GivenUpFiles(tmp_path, MediaSettings()).remember(ITEM, DecodingLimitError("the decoder crashed (signal 11)"))
    loaded: list[MediaItem] = []
    GivenUpFiles(tmp_path, settings).guard(loaded.append)(item)
    assert loaded == [item]


def test_other_errors_are_not_remembered(tmp_path: Path) -> None:
    def fail(item: MediaItem) -> None:
        raise MediaError("cannot be fetched")

    with pytest.raises(MediaError):
        GivenUpFiles(tmp_path, MediaSettings()).guard(fail)(ITEM)
    loaded: list[MediaItem] = []
    GivenUpFiles(tmp_path, MediaSettings()).guard(loaded.append)(ITEM)
    assert loaded == [ITEM]


def test_an_index_of_images_lists_what_was_given_up_and_does_not_try_it_again(
    tmp_path: Path,
    photos: dict[str, np.ndarray],
    write_photos: Callable[..., Path],
    build_index: Callable[..., object],
    image_settings: ImageSettings,
    new_decoders: None,
) -> None:
    source = write_photos(tmp_path / "images", {**photos, "bomb": np.zeros((*BOMB, 3), np.uint8)})
    media = image_settings.media.model_copy(update={"max_memory": 64})
    settings = image_settings.model_copy(update={"media": media})
    told = []
    for _ in range(2):
        index, _ = build_index(source, tmp_path / "index", "queries", settings)
        assert set(index.paths) == set(photos)
        (failure,) = read_failures(tmp_path / "index" / "failures.csv")
        told.append((failure.id, failure.error))
        (given_up,) = (tmp_path / "index" / "given_up").iterdir()
        write_record(given_up, read_record(given_up) | {"error": "as was found before"})
    assert told == [("bomb", TOO_MUCH), ("bomb", "as was found before")]


def test_an_index_of_videos_lists_what_was_given_up(
    tmp_path: Path,
    video_sides: Path,
    write_video: Callable[..., Path],
    use_grid_descriptor: None,
    new_decoders: None,
) -> None:
    source, root = tmp_path / "videos", tmp_path / "index"
    source.mkdir()
    (source / "good.mp4").hardlink_to(video_sides / "references" / "coffee.mp4")
    still = np.zeros((6000, 6000, 3), np.uint8)  # of which no frame fits, however few threads decode
    write_video(source / "bomb.mp4", [still] * 3, codec="libx264")
    settings = VideoSettings(media=MediaSettings(max_memory=64))
    for shard in video_index.plan_videos(str(source), root, "references", settings, replace=False):
        video_index.describe_videos(root, shard, settings)
    finish_index(root, root / "failures.csv", [root], 1.0)
    (failure,) = read_failures(root / "failures.csv")
    assert (failure.id, failure.error) == ("bomb", TOO_MUCH)
    assert list(video_index.VideoIndex.open(root).paths) == ["good"]
    assert len(list((root / "given_up").iterdir())) == 1
