import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.frames import frames_at
from copytrace.report.pictures import Unreadable
from copytrace.report.video_pictures import FilmStrip, make_film_strips

RATE = 4  # pictures per second


def write_clip(path, seconds, size=(64, 48), *, turned=0, codec="mpeg4", gop=12):
    """Write a video whose picture number n has the grey level n (below 200); `turned` in degrees anticlockwise."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=RATE, width=size[0], height=size[1], pix_fmt="yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.qmin = stream.codec_context.qmax = 2  # so fine that a level stays what it is, or nearly
        if turned:
            stream.set_display_rotation(turned)
        for number in range(seconds * RATE):
            pixels = np.full((size[1], size[0], 3), number % 200, np.uint8)
            pixels[:8] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return str(path)


def levels(frames):
    return [None if frame is None else round(float(frame[len(frame) // 2 :].mean())) for frame in frames]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 45)


def test_each_second_shows_the_picture_that_is_up_then_in_the_order_asked_for(clip):
    moments = [30.1, 0.0, 44.9, 2.3, 2.3]
    assert levels(frames_at(clip, moments, 64)) == pytest.approx([120, 0, 179, 9, 9], abs=2)


def test_far_moments_are_jumped_to_without_changing_what_they_show(clip):
    dense = np.arange(0, 44, 0.5)
    near, far = frames_at(clip, list(dense), 64), frames_at(clip, [3.0, 20.0, 41.0], 64)
    for moment, frame in zip([3.0, 20.0, 41.0], far, strict=True):
        assert np.array_equal(frame, near[int(moment * 2)])


def test_a_video_of_one_key_frame_is_read_on_from_it(tmp_path):
    path = write_clip(tmp_path / "one.mp4", 30, gop=600)
    assert levels(frames_at(path, [1.0, 25.0], 64)) == pytest.approx([4, 100], abs=2)


def test_a_file_that_cannot_be_jumped_in_is_read_to_the_moment(tmp_path):
    path = write_clip(tmp_path / "raw.m4v", 30)  # a bare stream has no timestamps and no index
    assert levels(frames_at(path, [1.0, 25.0], 64))[1] == pytest.approx(100, abs=4)


def test_nothing_is_shown_after_the_end(clip):
    assert levels(frames_at(clip, [45.5, 47.0], 64)) == [pytest.approx(179, abs=2), None]


def test_pictures_are_upright_and_no_longer_than_the_side(tmp_path):
    path = write_clip(tmp_path / "turned.mp4", 2, turned=90)
    frame = frames_at(path, [0.5], 32)[0]
    assert frame.shape == (32, 24, 3)
    assert frame[:, :2].mean() > 200  # the light edge at the top of the coded picture is to the left
    assert frames_at(path, [0.5], 640)[0].shape == (64, 48, 3)


@pytest.mark.parametrize(("content", "reason"), [(None, "file not found"), (b"", "empty file"), (b"text", "no video")])
def test_a_file_that_is_no_video_gives_the_reason(tmp_path, content, reason):
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        frames_at(str(path), [0.0], 64)


def test_a_strip_has_a_cell_for_each_moment(clip):
    strip = make_film_strips([(clip, (0.0, 20.0, 40.0))], 64)[clip, (0.0, 20.0, 40.0)]
    assert isinstance(strip, FilmStrip)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.base64))).convert("RGB"))
    assert pixels.shape == (48, 3 * 64, 3)
    assert [round(pixels[30:, 64 * cell + 8 : 64 * cell + 56].mean()) for cell in range(3)] == pytest.approx(
        [0, 80, 160], abs=4
    )
    assert (strip.ratio, strip.content) == (pytest.approx(4 / 3), (0, 0, 1, 1))


def test_upright_pictures_stand_in_the_middle_of_square_cells(tmp_path):
    path = write_clip(tmp_path / "tall.mp4", 2, size=(32, 64))
    strip = make_film_strips([(path, (0.5, 1.0))], 64)[path, (0.5, 1.0)]
    assert (strip.ratio, strip.content) == (1.0, (0.25, 0.0, 0.75, 1.0))


def test_one_file_that_is_gone_leaves_the_others(clip, tmp_path):
    gone = str(tmp_path / "gone.mp4")
    strips = make_film_strips([(gone, (1.0,)), (clip, (1.0,)), (clip, (99.0,))], 64)
    assert strips[gone, (1.0,)] == Unreadable("file not found")
    assert isinstance(strips[clip, (1.0,)], FilmStrip)
    assert strips[clip, (99.0,)] == Unreadable("the video shows nothing at these seconds")


def test_the_same_file_gives_the_same_bytes(clip):
    wanted = [(clip, (3.0, 33.0)), (clip, (5.0,))]
    assert make_film_strips(wanted, 64) == make_film_strips(wanted[::-1], 64)
