from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.files import MediaItem, list_media
from copytrace.media.stills import read_stills, write_stills


def film(path: Path, seconds: float = 3.0, *, rate: int = 10, faststart: bool = False) -> Path:
    """A video that gets brighter by 8 per frame, from 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(round(seconds * rate)):
            noise = np.random.default_rng(number).integers(0, 3, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise + np.uint8(15 + number % 30 * 8), "rgb24")))
        container.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def times(path: Path, every: float) -> list[float]:
    return [round(seconds, 3) for seconds, _ in read_stills(str(path), every=every)]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1.0, [0.0, 1.0, 2.0]),
        (0.75, [0.0, 0.75, 1.5, 2.25]),
        (0.2, [round(0.2 * number, 3) for number in range(15)]),
        (60.0, [0.0]),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_stills_are_taken_at_the_times_asked_for(
    tmp_path: Path, suffix: str, every: float, expected: list[float]
) -> None:
    assert times(film(tmp_path / f"a.{suffix}"), every) == expected


def test_a_still_is_the_picture_in_the_middle_of_its_stretch(tmp_path: Path) -> None:
    for seconds, image in read_stills(str(film(tmp_path / "a.mp4")), every=1.0):
        assert (image.mode, image.size) == ("RGB", (64, 48))
        assert np.asarray(image).mean() == pytest.approx(16 + 80 * (seconds + 0.5), abs=6)


def test_no_picture_becomes_two_stills(tmp_path: Path) -> None:
    assert len(times(film(tmp_path / "a.mp4"), 0.04)) == 30


def test_each_video_gets_a_folder_of_jpegs(tmp_path: Path) -> None:
    film(tmp_path / "videos" / "one.mp4")
    film(tmp_path / "videos" / "trips" / "two.mkv", seconds=1.0)
    written, failures = write_stills(list_media(tmp_path / "videos"), tmp_path / "stills", every=1.0)
    assert (written, failures) == (4, [])
    found = sorted(str(path.relative_to(tmp_path / "stills")) for path in (tmp_path / "stills").rglob("*.*"))
    assert found == ["one/00000.000.jpg", "one/00001.000.jpg", "one/00002.000.jpg", "trips/two/00000.000.jpg"]
    with Image.open(tmp_path / "stills" / found[1]) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


def test_a_second_run_gives_the_same_files(tmp_path: Path) -> None:
    videos = list_media(film(tmp_path / "videos" / "one.mp4"))
    first = write_stills(videos, tmp_path / "stills", every=1.0)
    before = {path: path.read_bytes() for path in tmp_path.glob("stills/*/*")}
    assert write_stills(videos, tmp_path / "stills", every=1.0) == first
    assert {path: path.read_bytes() for path in tmp_path.glob("stills/*/*")} == before


def test_videos_that_cannot_be_read_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    whole = film(folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").touch()
    sound(folder / "sound.wav")
    started = film(folder / "started.mp4", faststart=True)
    left = len(whole) * 6 // 10
    with av.open(str(started)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    last = sum(end <= left for end in ends) / 10  # seconds, of ten pictures each, that are whole
    started.write_bytes(started.read_bytes()[:left])
    written, failures = write_stills(list_media(folder), tmp_path / "stills", every=0.2)
    reasons = dict(failures)
    assert set(reasons) == {"cut", "text", "empty", "sound", "started"}
    assert reasons["sound"] == "no video"
    assert reasons["cut"].startswith("cannot be decoded: its table of contents (moov) is missing")
    assert reasons["text"] == "no video, though its name ends in .mp4"
    assert reasons["empty"] == "empty file"
    assert reasons["started"] == f"stops at {last:.1f} s of 3.0 s, as if cut short"
    assert not any("\n" in reason for reason in reasons.values())
    kept = [path.parent.name for path in tmp_path.glob("stills/*/*.jpg")]
    assert kept.count("whole") == 15
    assert 0.5 < last < 2.9
    assert kept.count("started") == math.ceil(last / 0.2 - 1e-6)
    assert written == len(kept)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_a_video_without_a_frame_left_is_an_error(tmp_path: Path, keep: float) -> None:
    path = film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(MediaError, match=r"^(cannot be decoded: .+|has no picture that can be decoded)$"):
        times(path, 1.0)


def test_a_missing_file_is_a_media_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"^file not found$"):
        times(tmp_path / "absent.mp4", 1.0)


@pytest.mark.parametrize("identity", ["../outside", "a/../../outside", "{root}/outside"])
def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path, identity: str) -> None:
    identity = identity.format(root=tmp_path)
    clip = film(tmp_path / "clip.mp4", 1.0)
    videos = [MediaItem(identity, str(clip), ""), MediaItem("clip", str(clip), "")]
    written, failures = write_stills(videos, tmp_path / "out", every=1.0)
    assert written == 1
    assert failures == [(identity, "its id leads out of the folder; give it another one")]
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "out"}
