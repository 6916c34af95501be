from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import fsspec
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Interpolation
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.frames import Frame, VideoInfo, intervals, open_video, read_frames
from copytrace.media.timelines import Step


def read(path: Path | str, **options: float) -> list[Frame]:
    return list(read_frames(str(path), **options))


def levels(frames: Iterable[Frame]) -> list[int]:
    """The brightness of plain pictures, to the next ten."""
    return [round(float(frame.pixels.mean()), -1) for frame in frames]


def spans(frames: Iterable[Frame]) -> list[tuple[float, float]]:
    return [(round(frame.start, 3), round(frame.end, 3)) for frame in frames]


def read_until_error(path: Path | str, **options: float) -> tuple[list[Frame], str]:
    frames = []
    with pytest.raises(MediaError) as caught:
        for frame in read_frames(str(path), **options):
            frames.append(frame)
    assert "\n" not in str(caught.value)
    return frames, str(caught.value)


def smooth(seed: int) -> np.ndarray:
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return cv2.resize(corners, (96, 64), interpolation=cv2.INTER_LINEAR)


def decode_all(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            (
                float((frame.pts - (stream.start_time or 0)) * stream.time_base),
                frame.reformat(format="rgb24", interpolation=Interpolation.AREA).to_ndarray(),
            )
            for frame in container.decode(stream)
        ]


CODERS = {
    "h264": ("libx264", {"bf": "3", "g": "40", "preset": "fast"}),
    "h264 open": ("libx264", {"bf": "3", "g": "20", "x264-params": "open-gop=1"}),
    "h264 whole": ("libx264", {"tune": "zerolatency"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=30:bframes=4"}),
    "mpeg4": ("mpeg4", {"bf": "2", "g": "12"}),
    "mpeg2": ("mpeg2video", {"bf": "2", "g": "12"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"}),
    "mjpeg": ("mjpeg", {}),
}


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_those_of_decoding_everything(film: Callable[..., Path], coder: str, suffix: str) -> None:
    codec, options = CODERS[coder]
    path = film(f"a.{suffix}", 125, codec=codec, rate=25, options=options)
    shown = decode_all(path)
    for per_second in (1.0, 3.0):
        for threads in (1, 3):
            frames = read(path, per_second=per_second, threads=threads)
            assert len(frames) == 5 * per_second
            for frame in frames:
                middle = (frame.start + frame.end) / 2
                expected = [pixels for time, pixels in shown if time <= middle + 1e-6][-1]
                np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize(
    ("coder", "step", "least"),
    [("h264", Step.SKIP_IF_DISPOSABLE, 90), ("h264", Step.LEAVE_OUT, 10), ("mjpeg", Step.LEAVE_OUT, 120)],
)
def test_what_is_not_needed_is_not_decoded(film: Callable[..., Path], coder: str, step: Step, least: int) -> None:
    codec, options = CODERS[coder]
    path = film("a.mkv", 125, codec=codec, rate=25, options=options)
    steps = open_video(str(path)).timeline.plan(np.arange(5) + 0.5)
    assert (steps == step).sum() >= least


def test_key_frame_flags_of_a_lying_file_are_not_believed(tmp_path: Path, film: Callable[..., Path]) -> None:
    honest = film("honest.mp4", 50, codec="libx264", options={"g": "20", "bf": "0"})
    lying = tmp_path / "lying.mp4"
    content = honest.read_bytes()
    assert content.count(b"stss") == 1
    lying.write_bytes(content.replace(b"stss", b"free"))  # without the table, every picture counts as a key frame
    timelines = [open_video(str(path)).timeline for path in (lying, honest)]
    assert [timeline.random_access.sum() for timeline in timelines] == [3, 3]
    for ours, theirs in zip(read(lying), read(honest), strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)


def test_a_frame_is_the_picture_in_the_middle_of_its_interval(film: Callable[..., Path]) -> None:
    path = film("a.mp4", range(0, 250, 10))
    assert levels(read(path)) == [50, 150, 220]
    assert spans(read(path)) == [(0, 1), (1, 2), (2, 2.5)]
    assert levels(read(path, per_second=0.5)) == [100, 220]
    assert levels(read(path, per_second=5)) == [10, 30, 50, 70, 90, 110, 130, 150, 170, 190, 210, 230, 240]


def test_a_picture_that_stays_stands_for_every_interval_it_lasts(film: Callable[..., Path]) -> None:
    path = film("a.mp4", (50, 100, 150, 200), times=[0, 200, 5300, 5900], codec="libx264")
    frames = read(path)
    assert levels(frames) == [100, 100, 100, 100, 100, 150]
    assert frames[1].pixels is frames[2].pixels
    assert spans(frames) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]


def test_what_is_known_of_a_video(film: Callable[..., Path]) -> None:
    path = film("a.mp4", 25)
    known = VideoInfo(duration=pytest.approx(2.5), width=96, height=64, frames_per_second=10.0, start=0.0)
    assert open_video(str(path)).info == known


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_the_duration_ends_with_the_last_picture(film: Callable[..., Path], suffix: str) -> None:
    path = film(f"a.{suffix}", 25, options={"bf": "2"})
    assert open_video(str(path)).info.duration == pytest.approx(2.5, abs=2e-3)
    assert read(path)[-1].end == pytest.approx(2.5, abs=2e-3)


def test_an_animated_gif_keeps_its_own_times(tmp_path: Path) -> None:
    scenes = [smooth(number) for number in range(3)]
    pictures = [Image.fromarray(scene) for scene in scenes]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[400, 2000, 600])
    first, second, third = read(path)
    assert spans([first, second, third]) == [(0, 1), (1, 2), (2, 3)]
    assert first.pixels is second.pixels
    assert np.abs(second.pixels.astype(int) - scenes[1]).mean() < 8
    assert np.abs(third.pixels.astype(int) - scenes[2]).mean() < 8


def test_a_still_image_is_one_frame(tmp_path: Path) -> None:
    Image.fromarray(smooth(0)).save(tmp_path / "100%d.jpg", quality=95, subsampling=0)
    (frame,) = read(tmp_path / "100%d.jpg")
    assert frame.start == 0 < frame.end
    assert np.abs(frame.pixels.astype(int) - smooth(0)).mean() < 5


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_video_of_one_picture_lasts_as_long_as_it(film: Callable[..., Path], suffix: str) -> None:
    (frame,) = read(film(f"a.{suffix}", [100], rate=5))
    assert spans([frame]) == [(0, 0.2)]


@pytest.mark.parametrize("shift", [-1.5, 7.3])
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_time_counts_from_the_first_picture(film: Callable[..., Path], suffix: str, shift: float) -> None:
    path = film(
        f"a.{suffix}",
        range(0, 250, 10),
        restamp=lambda seconds: seconds + shift,
        container_options={"avoid_negative_ts": "disabled"},
    )
    assert levels(read(path)) == [50, 150, 220]
    if suffix == "mkv":  # muxers of transport streams add a delay
        assert open_video(str(path)).info.start == pytest.approx(shift)


def test_what_an_edit_list_hides_is_not_shown(film: Callable[..., Path]) -> None:
    """The muxer writes pictures before zero into the file, and an edit list that starts at zero."""
    path = film(
        "a.mp4",
        range(0, 250, 10),
        restamp=lambda seconds: seconds - 0.7,
        options={"g": "100"},
        container_options={"avoid_negative_ts": "disabled"},
    )
    assert levels(read(path)) == [120, 210]
    assert spans(read(path)) == [(0, 1), (1, 1.8)]


@pytest.mark.parametrize("suffix", ["m2v", "h264"])
def test_without_timestamps_pictures_come_at_the_nominal_rate(film: Callable[..., Path], suffix: str) -> None:
    codec = {"m2v": "mpeg2video", "h264": "libx264"}[suffix]
    path = film(f"a.{suffix}", range(0, 250, 5), codec=codec, rate=25)
    assert levels(read(path)) == pytest.approx([60, 190], abs=10)
    assert read(path)[-1].end == pytest.approx(2.0, abs=0.05)


def test_where_pictures_are_too_short_to_be_seen_they_come_at_the_nominal_rate(film: Callable[..., Path]) -> None:
    def count_in_microseconds(stream: av.VideoStream) -> None:
        stream.codec_context.time_base = Fraction(1, 1_000_000)

    path = film("a.nut", 8, codec="libx264", rate=4, prepare=count_in_microseconds)
    assert open_video(str(path)).info.duration == pytest.approx(2)


def test_where_the_clock_jumps_pictures_come_at_the_nominal_rate(tmp_path: Path, film: Callable[..., Path]) -> None:
    pictures = range(0, 250, 5)
    early = film("early.ts", pictures[:25], codec="mpeg2video", rate=25)
    for shift in (0, 20_000):
        late = film(
            "late.ts",
            pictures[25:],
            codec="mpeg2video",
            rate=25,
            restamp=lambda seconds, shift=shift: seconds + shift,
        )
        both = tmp_path / "both.ts"
        both.write_bytes(early.read_bytes() + late.read_bytes())
        assert levels(read(both)) == pytest.approx([60, 190], abs=10)
        assert read(both)[-1].end == pytest.approx(2.0)


def test_of_pictures_at_the_same_time_the_last_is_shown(film: Callable[..., Path]) -> None:
    path = film("a.mkv", range(0, 200, 20), restamp=lambda seconds: 0.4 if seconds == 0.5 else seconds)
    assert levels(read(path)) == [100]


def sound(path: Path, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 96, 64, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(smooth(0), "rgb24")))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_sound_is_no_video_not_even_with_a_cover_picture(tmp_path: Path) -> None:
    assert read_until_error(sound(tmp_path / "a.m4a")) == ([], "has no video stream")
    assert read_until_error(sound(tmp_path / "b.mp4", cover=True)) == ([], "has no video stream, only a cover picture")


def test_pictures_too_large_or_too_small_are_refused(film: Callable[..., Path]) -> None:
    path = film("a.mkv", 10)
    with pytest.raises(MediaError, match=r"^96x64 pixels is above the limit of 6000 pixels \(media.max_pixels\)$"):
        open_video(str(path), max_pixels=6000)
    line = film("line.mkv", [9] * 3, size=(64, 1), codec="ffv1")
    assert read_until_error(line) == ([], "64x1 pixels is too small; the shorter side must be at least 8")


def test_files_that_are_no_videos_are_media_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    assert read_until_error(tmp_path / "empty.mp4") == ([], "empty file")
    assert read_until_error(tmp_path) == ([], "a folder, not a file")
    assert read_until_error(tmp_path / "absent.mp4") == ([], "file not found")
    assert read_until_error("null\0byte.mp4")[1].startswith("cannot be opened: ")
    assert read_until_error(tmp_path / "text.mp4")[1] == "no video, though its name ends in .mp4"
    assert read_until_error("memory://absent.mp4") == ([], "file not found")


def test_a_playlist_cannot_make_us_open_what_it_names(tmp_path: Path, film: Callable[..., Path]) -> None:
    path = film("a.ts", 10, codec="mpeg2video", rate=25)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n")
    frames, reason = read_until_error(playlist)
    assert frames == []
    assert reason == "no video"


def test_a_file_with_a_name_like_an_address_is_a_file(
    tmp_path: Path, film: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film("concat:a.mkv", [100] * 10)
    assert levels(read("concat:a.mkv")) == [100]


def test_videos_are_read_from_a_store(film: Callable[..., Path]) -> None:
    path = film("a.mp4", 25)
    with fsspec.open("memory://videos/a.mp4", "wb") as file:
        file.write(path.read_bytes())
    for ours, theirs in zip(read("memory://videos/a.mp4"), read(path), strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_of_a_file_cut_short_there_are_the_frames_that_it_has(film: Callable[..., Path], name: str) -> None:
    movflags = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = film(name, 80, options={"g": "1"}, container_options=movflags)
    whole = read(path, per_second=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, reason = read_until_error(path, per_second=10)
    assert 30 <= len(frames) <= 50 < len(whole) == 80
    for ours, theirs in zip(frames, whole, strict=False):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert re.fullmatch(
        r"stops at [34]\.\d s of (8\.0|4\.\d) s, as if cut short", reason
    )  # AVI's reader goes by the file's size


def test_of_a_file_that_breaks_off_there_are_the_frames_before(film: Callable[..., Path]) -> None:
    path = film("a.ivf", 80, codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    whole = read(path)
    content = bytearray(path.read_bytes())
    at = 32  # bytes; each frame follows on 4 that tell its length, and 8 that tell its time
    for _ in range(50):
        at += 12 + struct.unpack_from("<I", content, at)[0]
    struct.pack_into("<I", content, at, 0xFFFFFFF0)
    path.write_bytes(content)
    frames, reason = read_until_error(path)
    assert len(frames) == 5
    for ours, theirs in zip(frames, whole, strict=False):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert reason == "breaks off at 5.0 s, as if cut short"


def test_a_damaged_stretch_costs_its_own_frames_and_is_told(film: Callable[..., Path]) -> None:
    path = film("a.mp4", 100, codec="mjpeg")
    whole = read(path)
    content = bytearray(path.read_bytes())
    content[len(content) * 4 // 10 : len(content) * 7 // 10] = bytes(len(content) * 7 // 10 - len(content) * 4 // 10)
    path.write_bytes(content)
    frames, reason = read_until_error(path)
    kept = {frame.start: frame.pixels for frame in frames}
    assert {0, 1, 2, 8, 9} <= set(kept)
    assert len(frames) < 10
    for number in (0, 1, 2, 8, 9):
        np.testing.assert_array_equal(kept[number], whole[number].pixels)
    assert reason.startswith("is damaged: ")


def test_memory_does_not_grow_with_the_frames(film: Callable[..., Path]) -> None:
    path = film("a.mp4", 60, size=(320, 240))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_frames(str(path), per_second=10)) == 60
        assert tracemalloc.get_traced_memory()[1] < 6 * 320 * 240 * 3
    finally:
        tracemalloc.stop()


def test_a_reader_may_stop_early(film: Callable[..., Path]) -> None:
    frames = read_frames(str(film("a.mp4", 25)))
    assert next(frames).start == 0
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)


@pytest.mark.parametrize(("option", "value"), [("per_second", 0.0), ("per_second", float("nan")), ("short_side", 0)])
def test_senseless_options_are_refused(film: Callable[..., Path], option: str, value: float) -> None:
    path = film("a.mp4", [0])
    with pytest.raises(ValueError, match="per_second must be above 0 and short_side at least 1"):
        read(path, **{option: value})


@pytest.mark.parametrize(
    ("duration", "per_second", "expected"),
    [
        (2.5, 1.0, [(0, 1), (1, 2), (2, 2.5)]),
        (3.0, 1.0, [(0, 1), (1, 2), (2, 3)]),
        (3.0004, 1.0, [(0, 1), (1, 2), (2, 3.0004)]),
        (0.04, 1.0, [(0, 0.04)]),
        (1.0, 2.0, [(0, 0.5), (0.5, 1)]),
    ],
)
def test_intervals_cover_a_video_without_slivers(
    duration: float, per_second: float, expected: list[tuple[float, float]]
) -> None:
    starts, ends = intervals(duration, per_second)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected
