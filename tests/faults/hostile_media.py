"""Hostile media by a seed: good files that are cut, altered, mixed and renamed, and small files that cost much."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_PICTURES: dict[str, tuple[str, dict[str, object]]] = {
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 80}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {"compression": "tiff_lzw"}),
    "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}),
    "avif": ("AVIF", {"speed": 10}),
}
_CLIPS = {
    "mp4": ("libx264", "mp4"),
    "mkv": ("libx264", "matroska"),
    "avi": ("mpeg4", "avi"),
    "webm": ("libvpx", "webm"),
    "ts": ("mpeg2video", "mpegts"),
    "mov": ("mjpeg", "mov"),
    "gif": ("gif", "gif"),
}


@dataclass(frozen=True, slots=True)
class HostileFile:
    """The content of a file under its name."""

    name: str
    content: bytes


def encode_pictures(photo: Pixels) -> dict[str, bytes]:
    """Return a photo in each format, by suffix."""
    return {suffix: encode_picture(photo, suffix) for suffix in _PICTURES}


def encode_picture(photo: Pixels, suffix: str) -> bytes:
    """Return a photo in the format of a suffix."""
    content, (kind, options) = io.BytesIO(), _PICTURES[suffix]
    Image.fromarray(photo).save(content, kind, **options)
    return content.getvalue()


def encode_clips(photo: Pixels, *, pictures: int = 24, size: tuple[int, int] = (96, 64)) -> dict[str, bytes]:
    """Return a camera that moves over a photo, eight pictures a second, in each container, by suffix."""
    return {suffix: encode_clip(photo, suffix, pictures=pictures, size=size) for suffix in _CLIPS}


def encode_clip(photo: Pixels, suffix: str, *, pictures: int = 24, size: tuple[int, int] = (96, 64)) -> bytes:
    """Return the same in one container."""
    written, (codec, kind) = io.BytesIO(), _CLIPS[suffix]
    with av.open(written, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for number in range(pictures):
            part = np.ascontiguousarray(photo[number : number + size[1], 2 * number : 2 * number + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, "rgb24")))
        container.mux(stream.encode())
    return written.getvalue()


def mutations(coded: Mapping[str, bytes], count: int, seed: int) -> Iterator[HostileFile]:
    """Yield `count` files that are made of good ones, by suffix, by one to three alterations each."""
    random = np.random.default_rng(seed)
    suffixes = list(coded)
    for number in range(count):
        suffix = suffixes[int(random.integers(len(suffixes)))]
        content = coded[suffix]
        for _ in range(int(random.integers(1, 4))):
            content = alter_bytes(content, random, coded[suffixes[int(random.integers(len(suffixes)))]])
        name = suffix if random.random() < 0.8 else suffixes[int(random.integers(len(suffixes)))]
        yield HostileFile(f"mutation{number:05}.{name}", content)


def alter_bytes(content: bytes, random: np.random.Generator, other: bytes | None = None) -> bytes:
    """Return a file that is altered somehow; some alterations take bytes of an `other` file."""
    alter = _ALTERATIONS[int(random.integers(len(_ALTERATIONS)))]
    return alter(content, content if other is None else other, random)


def _cut(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return content[: int(len(content) * random.random())]


def _flip_bits(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    altered = bytearray(content)
    for at in random.integers(0, max(1, len(altered)), int(2 ** random.integers(0, 8))) if altered else ():
        altered[at] ^= 1 << int(random.integers(8))
    return bytes(altered)


def _flip_header(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return _flip_bits(content[:256], other, random) + content[256:]


def _put_extreme(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Overwrite a number in the header, or anywhere, by one of those at which programs fail."""
    values = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff", b"\0\1\0\0")
    reach = min(len(content), 512 if random.random() < 0.5 else len(content))
    at = int(random.integers(0, max(1, reach)))
    return content[:at] + values[int(random.integers(len(values)))] + content[at + 4 :]


def _clear_part(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    start, stop = sorted(int(len(content) * share) for share in random.random(2))
    return content[:start] + bytes(stop - start) + content[stop:]


def _repeat_part(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    start, stop = sorted(int(len(content) * share) for share in random.random(2))
    return content[:stop] + content[start:stop] * int(random.integers(1, 4)) + content[stop:]


def _splice(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return content[: int(len(content) * random.random())] + other[int(len(other) * random.random()) :]


def _put_before(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    return other[: int(random.integers(4, 64))] + content


_ALTERATIONS: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    _cut,
    _flip_bits,
    _flip_header,
    _put_extreme,
    _clear_part,
    _repeat_part,
    _splice,
    _put_before,
)


def picture_bombs(photo: Pixels) -> Iterator[tuple[HostileFile, str]]:
    """Yield images that claim, or take, too much, each with a pattern of the reason why it cannot be used."""
    png = bytearray(encode_picture(photo, "png"))
    yield HostileFile("cut.png", bytes(png[:200])), "truncated|corrupt"
    png[16:24] = struct.pack(">II", 100_000, 100_000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    yield HostileFile("pixels.png", bytes(png)), "gigapixels is above the limit"
    jpeg = bytearray(encode_picture(photo, "jpg"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    yield HostileFile("pixels.jpg", bytes(jpeg)), "gigapixels is above the limit"
    yield HostileFile("scans.jpg", _many_scans(1000)), "processor time"
    yield HostileFile("floats.tif", _plain("F", "TIFF", compression="tiff_deflate")), "of memory"
    yield HostileFile("alpha.png", _plain("RGBA", "PNG")), "of memory"
    yield HostileFile("nothing.jpg", b""), "empty"
    yield HostileFile("text.jpg", b"not a picture\n" * 100), "no image"
    yield HostileFile("page.png", b"<html><script>alert(1)</script></html>"), "no image"


def _many_scans(count: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (5000, 4000), 90).save(content, "JPEG", progressive=True)
    whole = content.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def _plain(mode: str, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.new(mode, (4800, 4800), 1).save(content, kind, **options)
    return content.getvalue()


def clip_bombs(photo: Pixels) -> Iterator[tuple[HostileFile, str]]:
    """Yield videos that claim, or take, too much, or show nothing, each with a pattern of the reason."""
    yield HostileFile("hours.mkv", _two_pictures(photo, 3500.0)), "are credible"
    yield HostileFile("large.mp4", _large_clip(20)), "of memory"
    yield HostileFile("sound.mp4", _sound()), "no video"
    yield HostileFile("head.mp4", encode_clips(photo, pictures=2)["mp4"][:100]), "cannot be decoded|no video"
    yield HostileFile("samples.mp4", _many_samples(photo)), "larger than the file|damaged|decoded|cut short|breaks off"
    yield HostileFile("nothing.mp4", b""), "empty"
    yield HostileFile("text.mkv", b"not a video\n" * 100), "no video"


def _two_pictures(photo: Pixels, seconds: float) -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in (0.0, seconds):
            frame = av.VideoFrame.from_ndarray(np.asarray(cv2.resize(photo, (48, 32)), np.uint8), "rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return written.getvalue()


def _large_clip(pictures: int) -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast", "refs": "16"})
        stream.width, stream.height, stream.pix_fmt = 2048, 2048, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((2048, 2048, 3), np.uint8), "rgb24").reformat(format="yuv420p")
        for number in range(pictures):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return written.getvalue()


def _sound() -> bytes:
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return written.getvalue()


def _many_samples(photo: Pixels) -> bytes:
    """Return an MP4 whose tables claim twenty million samples of one byte."""
    content = bytearray(encode_clips(photo)["mp4"])
    stsz, stts = content.index(b"stsz"), content.index(b"stts")
    content[stsz + 8 : stsz + 16] = struct.pack(">II", 1, 20_000_000)
    content[stts + 12 : stts + 16] = struct.pack(">I", 20_000_000)
    stsc = content.index(b"stsc")
    content[stsc + 16 : stsc + 20] = struct.pack(">I", 20_000_000)
    return bytes(content)


def write(folder: Path, files: Iterator[HostileFile]) -> list[str]:
    """Write files into a folder and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for file in files:
        (folder / file.name).write_bytes(file.content)
        names.append(file.name)
    return names
