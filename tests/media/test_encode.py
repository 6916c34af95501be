from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copytrace.media.encode import crop_to_fill, fit_within, write_video
from copytrace.media.frames import open_video, read_frames

GREYS = (40, 90, 140, 190)


def plain(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_written_pictures_come_back_at_their_rate(tmp_path: Path) -> None:
    assert write_video(map(plain, GREYS), tmp_path / "a.mp4", rate=2) == 4
    frames = list(read_frames(str(tmp_path / "a.mp4"), per_second=2))
    assert [(frame.start, frame.end) for frame in frames] == [(0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2)]
    assert [frame.pixels.mean() for frame in frames] == pytest.approx(GREYS, abs=3)


def test_a_coarser_quantizer_takes_less_room_and_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    noise = [np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8) for number in range(6)]
    for name, quantizer in (("fine", 3), ("again", 3), ("coarse", 20)):
        write_video(noise, tmp_path / name, rate=5, quantizer=quantizer)
    assert (tmp_path / "fine").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "coarse").stat().st_size < (tmp_path / "fine").stat().st_size / 2


def test_no_picture_makes_no_file(tmp_path: Path) -> None:
    assert write_video([], tmp_path / "a.mp4", rate=2) == 0
    assert not list(tmp_path.iterdir())


def test_a_video_whose_pictures_break_off_leaves_no_file(tmp_path: Path) -> None:
    def pictures() -> object:
        yield plain(10)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_video(pictures(), tmp_path / "a.mp4", rate=2)
    assert not list(tmp_path.iterdir())


def test_filling_cuts_the_middle_and_within_adds_black_bars() -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200  # the middle half is bright
    assert crop_to_fill(picture, 10, 10).tolist() == np.full((10, 10, 3), 200).tolist()
    barred = fit_within(picture, 20, 20)
    assert barred.shape == (20, 20, 3)
    assert not barred[:5].any()
    assert not barred[15:].any()
    assert (barred[5:15, 5:15] == 200).all()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1.0, 2.0, [2, 3]), (0.9, 1.6, [2, 3]), (0.0, 0.1, [0]), (1.5, np.inf, [3]), (9, 10, [])],
)
def test_a_part_of_a_video_has_the_same_frames_as_the_whole(
    tmp_path: Path, start: float, end: float, expected: list[int]
) -> None:
    write_video(map(plain, GREYS), tmp_path / "a.mp4", rate=2)
    video = open_video(str(tmp_path / "a.mp4"))
    whole, part = list(video.frames(per_second=2)), list(video.frames(per_second=2, start=start, end=end))
    assert [frame.start for frame in part] == [whole[number].start for number in expected]
    for frame, number in zip(part, expected, strict=True):
        assert (frame.pixels == whole[number].pixels).all()
