"""Threads of a decoder: as many as `COPYTRACE_CORES` or a setting says; with more of them, pictures are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.settings import MediaSettings
from copytrace.index.given_up import limits_of
from copytrace.media import decoding_pool
from copytrace.media.decode import decode_image
from copytrace.media.decoding_limits import DEFAULT_LIMITS, DecodingLimits
from copytrace.media.frames import frames_at, read_frames
from copytrace.runtime import CORES
from tests.media.conftest import pan

# Workers count their threads where the threads of FFmpeg, and those that scale, exist.
COUNTING = """
from pathlib import Path
from PIL import AvifImagePlugin
from copytrace.media import moments, video_pictures

def note(count):
    with open(Path(__file__).with_name("threads"), "a") as log:
        log.write(f"{count} ")

def counted(scale):
    def scale_and_count(*more):
        pixels = scale(*more)
        note(len(list(Path("/proc/self/task").iterdir())))
        return pixels
    return scale_and_count

for module in (moments, video_pictures):
    module.rgb_pixels = counted(module.rgb_pixels)

class Decoder:
    def __init__(self, content, codec, threads):
        note(threads)
        self.decoder = decoder(content, codec, threads)

    def __getattr__(self, name):
        return getattr(self.decoder, name)

decoder, AvifImagePlugin._avif.AvifDecoder = AvifImagePlugin._avif.AvifDecoder, Decoder
"""
TWO = DecodingLimits(threads=2)


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], set[int]]]:
    """A function that returns the numbers of threads that workers have had."""
    (tmp_path / "counting_decoders.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(decoding_pool, "DECODERS", [*decoding_pool.DECODERS, "counting_decoders"])
    monkeypatch.setenv(CORES, "1")
    decoding_pool.close_workers()

    def counts() -> set[int]:
        noted = tmp_path / "threads"
        numbers = {int(number) for number in noted.read_text().split()}
        noted.unlink()
        return numbers

    yield counts
    decoding_pool.close_workers()


@pytest.fixture
def video(film: Callable[..., Path]) -> str:
    return str(film("a.mp4", 40, size=(320, 240), codec="libx264", options={"preset": "ultrafast"}))


def all_frames(path: str, limits: DecodingLimits) -> list[np.ndarray]:
    return [frame.pixels for frame in read_frames(path, per_second=10, short_side=200, limits=limits)]


def some_frames(path: str, limits: DecodingLimits) -> list[np.ndarray]:
    return [pixels for pixels in frames_at(path, [0, 1, 3], 100, limits=limits) if pixels is not None]


@pytest.mark.parametrize("read", [all_frames, some_frames])
def test_a_video_is_decoded_by_as_many_threads_as_the_machine_s_share_allows(
    read: Callable[[str, DecodingLimits], list[np.ndarray]], video: str, threads: Callable[[], set[int]]
) -> None:
    one = read(video, DEFAULT_LIMITS)
    assert threads() == {1}
    several = read(video, TWO)
    assert min(threads()) > 2
    assert len(one) == len(several) > 2
    for pixels, others in zip(one, several, strict=True):
        np.testing.assert_array_equal(pixels, others)


def test_an_avif_is_decoded_by_as_many_threads_as_the_machine_s_share_allows(
    tmp_path: Path, threads: Callable[[], set[int]]
) -> None:
    path = str(tmp_path / "a.avif")
    Image.fromarray(pan(0, 64, 48)).save(path, speed=10)
    one = decode_image(path)
    assert threads() == {1}
    several = decode_image(path, limits=TWO)
    assert threads() == {2}
    np.testing.assert_array_equal(one.pixels, several.pixels)


def test_a_setting_says_how_many_threads_decode_a_file(video: str, threads: Callable[[], set[int]]) -> None:
    all_frames(video, limits_of(MediaSettings(threads=1)))
    assert threads() == {1}
    all_frames(video, limits_of(MediaSettings(threads=2)))
    assert min(threads()) > 2
