from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from copytrace.media.frames import open_video
from copytrace.media.rgb import Pixels


def shown(path: Path, short_side: int | None = None) -> list[Pixels]:
    """The pictures of a video, one per second."""
    return [frame.pixels for frame in open_video(str(path)).frames(short_side=short_side)]


@pytest.mark.parametrize(("angle", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (-90, (1, 0))])
def test_turned_videos_are_upright(film: Callable[..., Path], angle: int, corner: tuple[int, int]) -> None:
    """As many degrees as the file says that pictures have to be turned clockwise, the bright corner has moved."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    path = film("a.mp4", [picture] * 10, prepare=lambda stream: stream.set_display_rotation(-angle))
    info = open_video(str(path)).info
    (frame,) = shown(path)
    assert frame.shape == (info.height, info.width, 3) == ((64, 96, 3) if angle % 180 == 0 else (96, 64, 3))
    quarters = cv2.resize(frame[..., 0], (2, 2), interpolation=cv2.INTER_AREA)
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


def test_mirrored_videos_are_turned_back(film: Callable[..., Path]) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    matrix = [-(1 << 16), 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    path = film("a.mp4", [picture] * 10, prepare=lambda stream: stream.set_display_matrix(matrix))
    (frame,) = shown(path)
    assert frame[5, 90].min() > 240
    assert frame[5, 5].max() < 15


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (96, 48)), (Fraction(1, 2), (48, 64)), (Fraction(100), (96, 64))]
)
def test_pixels_are_made_square_unless_their_shape_is_absurd(
    film: Callable[..., Path], aspect: Fraction, size: tuple[int, int]
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    path = film("a.mkv", 10, prepare=prepare, codec="libx264")
    info = open_video(str(path)).info
    assert (info.width, info.height) == size
    assert shown(path)[0].shape == (size[1], size[0], 3)


def test_pictures_are_reduced_by_area_and_never_enlarged(film: Callable[..., Path]) -> None:
    checkers = np.ascontiguousarray(np.indices((120, 160)).sum(0)[..., None].repeat(3, 2) % 2 * 255, np.uint8)
    path = film("a.mkv", [checkers] * 10, codec="ffv1")
    small = shown(path, short_side=30)[0]
    assert small.shape == (30, 40, 3)
    assert np.abs(small.astype(int) - 127).max() < 12  # a pattern would be left by a filter that skips pixels
    assert shown(path, short_side=500)[0].shape == (120, 160, 3)


def test_interlaced_pictures_have_no_combs(film: Callable[..., Path]) -> None:
    combed = np.full((96, 128, 3), 40, np.uint8)
    combed[::2] = 200
    path = film("a.mpg", [combed] * 25, codec="mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qmax": "2"})
    for short_side in (None, 48):
        pixels = shown(path, short_side=short_side)[0]
        assert pixels.shape[0] == (short_side or 96)
        assert np.ptp(pixels.mean(axis=(1, 2))) < 10


def test_bright_and_dark_keep_their_values_in_either_range_of_video(film: Callable[..., Path]) -> None:
    for codec in ("mpeg4", "mjpeg"):
        path = film(f"{codec}.mkv", [0] * 10 + [255] * 10, codec=codec)
        dark, bright = shown(path)
        assert dark.max() <= 3, codec
        assert bright.min() >= 252, codec


def test_odd_sizes_are_kept(film: Callable[..., Path]) -> None:
    path = film("a.mkv", 10, size=(97, 65))
    assert shown(path)[0].shape == (65, 97, 3)
    assert shown(path, short_side=33)[0].shape == (33, 49, 3)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:, 16:] = (200, 0, 0, 255)
    path = tmp_path / "a.gif"
    Image.fromarray(picture).save(path)
    (frame,) = shown(path)
    assert (frame[:, :16] == 255).all()
    assert (frame[:, 16:] == (200, 0, 0)).all()
