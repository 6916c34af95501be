"""Files that are no videos, and what FFmpeg may open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from copytrace.errors import MediaError, NotMediumError
from copytrace.media.containers import CONTAINERS
from copytrace.media.decode import decode_image
from copytrace.media.frames import open_video, read_frames
from tests.child_processes import run_python

TEXT = "\n".join("some words of a note that nobody should play" for _ in range(400))
SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nagain\n"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfilm.mp4\n#EXT-X-ENDLIST\n"


def reason(path: Path) -> tuple[type[Exception], str]:
    with pytest.raises(MediaError) as caught:
        open_video(str(path))
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", TEXT),
        ("film.nfo", "\x1b[31m" + TEXT),
        ("run.log", TEXT),
        ("film.srt", SUBTITLES),
        ("a.m3u8", PLAYLIST),
    ],
)
def test_text_is_no_video(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert reason(tmp_path / name) == (NotMediumError, "no video")


def test_text_that_is_called_a_video_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text(TEXT)
    assert reason(tmp_path / "film.mp4") == (MediaError, "no video, though its name ends in .mp4")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_photo_is_a_video_of_one_frame(kind: str, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "photo", kind)
    assert len(list(read_frames(str(tmp_path / "photo")))) == 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_with_exif_data_is_upright_as_a_video_too(orientation: int, tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (64, 48), "white"), Image.Exif()
    image.paste("red", (0, 0, 32, 24))
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "a phone"
    image.save(tmp_path / "photo", "JPEG", exif=exif, quality=95, subsampling=0)
    (frame,) = read_frames(str(tmp_path / "photo"))
    expected = decode_image(str(tmp_path / "photo")).pixels
    assert frame.pixels.shape == expected.shape
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 3


def test_a_photo_that_ffmpeg_cannot_read_is_no_video(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    (tmp_path / "IMG_1.HEIC").write_bytes(heic)
    assert reason(tmp_path / "IMG_1.HEIC") == (NotMediumError, "no video")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_is_a_video_of_its_frames(kind: str, tmp_path: Path) -> None:
    shown = [Image.new("RGB", (64, 48), (level,) * 3) for level in (0, 120, 240)]
    for image in shown:
        image.paste("red", (0, 0, 8, 8))
    options = {} if kind in {"GIF", "PNG"} else {"quality": 95}
    shown[0].save(tmp_path / "a", kind, save_all=True, append_images=shown[1:], duration=1000, **options)
    video = open_video(str(tmp_path / "a"))
    assert (video.info.width, video.info.height) == (64, 48)
    levels = [int(frame.pixels[40, 40].mean()) for frame in video.frames(per_second=1)]
    assert levels[:3] == [pytest.approx(level, abs=4) for level in (0, 120, 240)]
    assert video.info.duration == pytest.approx(3, abs=1)


def test_white_art_on_nothing_is_seen_in_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (64, 64), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste("white", (8 * number, 8, 8 * number + 24, 40))
    for kind in ("WEBP", "PNG"):
        frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], duration=1000)
        for frame in open_video(str(tmp_path / "a")).frames():
            assert (frame.pixels[0, 0].max(), frame.pixels[20, 20].min()) == (0, 255)


def test_a_process_may_begin_with_an_animated_webp(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 48), (level,) * 3) for level in (0, 240)]
    frames[0].save(tmp_path / "a", "WEBP", save_all=True, append_images=frames[1:], duration=1000)
    program = "import sys; from copytrace.media.frames import read_frames; print(len(list(read_frames(sys.argv[1]))))"
    assert int(run_python("-c", program, tmp_path / "a").stdout) >= 2


def test_a_damaged_animation_is_told(tmp_path: Path) -> None:
    frames = [Image.effect_noise((64, 64), 40 + 10 * number).convert("RGB") for number in range(4)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=500)
    whole = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(whole[: len(whole) // 2])
    assert "animation" in reason(tmp_path / "a.webp")[1]


def test_sound_and_empty_files_are_no_videos_unless_they_are_called_so(tmp_path: Path) -> None:
    for name in ("song.m4a", "song.mp4"):
        with av.open(str(tmp_path / name), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            sound.sample_rate = 8000
            container.mux([*stream.encode(sound), *stream.encode()])
    (tmp_path / "empty").touch()
    (tmp_path / "empty.mkv").touch()
    assert reason(tmp_path / "song.m4a") == (NotMediumError, "has no video stream")
    assert reason(tmp_path / "song.mp4") == (MediaError, "has no video stream")
    assert reason(tmp_path / "empty") == (NotMediumError, "empty file")
    assert reason(tmp_path / "empty.mkv") == (MediaError, "empty file")


@pytest.mark.parametrize("name", ["Thumbs.db", "catalog.sqlite", "noise"])
def test_bytes_of_other_programs_are_no_video(name: str, tmp_path: Path) -> None:
    heads = {"Thumbs.db": bytes.fromhex("d0cf11e0a1b11ae1"), "catalog.sqlite": b"SQLite format 3\0"}
    noise = np.random.default_rng(3).bytes(20_000)
    (tmp_path / name).write_bytes(heads.get(name, b"") + noise)
    assert reason(tmp_path / name) == (NotMediumError, "no video")


def test_a_video_is_opened_whatever_its_name(film: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a.mkv", "a.avi", "a.ts", "a.nut"):
        path = film(name, 3).rename(tmp_path / "noname")
        assert open_video(str(path)).info.width == 96, name


def test_a_video_that_is_cut_in_its_header_is_a_failure_under_any_name(
    film: Callable[..., Path], tmp_path: Path
) -> None:
    whole = film("whole.mp4", 10).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    kind, told = reason(tmp_path / "cut")
    assert kind is MediaError
    assert told.startswith("cannot be decoded: ")


def test_an_mp4_that_was_never_finished_is_told_as_such(film: Callable[..., Path], tmp_path: Path) -> None:
    whole = film("whole.mp4", 10).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    assert reason(tmp_path / "cut.mp4") == (
        MediaError,
        "cannot be decoded: its table of contents (moov) is missing, as if it was cut short or never finished",
    )


def test_a_fault_of_a_file_is_not_told_as_one_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "large.y4m").write_bytes(b"YUV4MPEG2 W100000 H100000 F8:1\nFRAME\n" + bytes(1000))
    assert reason(tmp_path / "large.y4m") == (
        MediaError,
        "cannot be decoded: it is damaged, or not of the format as which it begins",
    )


@pytest.mark.parametrize("coder", ["libx264", "mpeg4"])
def test_reordered_pictures_in_an_avi_are_all_read(coder: str, film: Callable[..., Path]) -> None:
    path = film("a.avi", 40, codec=coder, options={"bf": "2" if coder == "mpeg4" else "3"})
    video = open_video(str(path))
    assert len(list(video.frames())) == 4  # without an error at the end
    assert video.info.duration == pytest.approx(4.0)


def test_ffmpeg_knows_all_formats_on_the_list() -> None:
    known = {part for name in av.formats_available for part in name.split(",")}
    assert set(CONTAINERS) - known <= {"mxf_opatom", "obu", "av1", "vvc"}
