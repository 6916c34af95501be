"""Animated WebP as a video that FFmpeg can read: its own decoder reads only pictures that stand still."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.formats import open_picture

_ANIMATED = 0x02  # a flag of the extended header (WebP container specification)
_FLAGS_AT = 20
_MOST_PIXELS = 200_000_000  # of a frame
_MILLISECOND = Fraction(1, 1000)
_LEAST_MILLISECONDS, _DEFAULT_MILLISECONDS = 11, 100  # as browsers show frames that state less, and no, duration


def is_animated_webp(prefix: bytes) -> bool:
    """Return whether a file begins as an animated WebP."""
    return prefix[:4] == b"RIFF" and prefix[8:16] == b"WEBPVP8X" and bool(prefix[_FLAGS_AT] & _ANIMATED)


@contextmanager
def convert_animated_webp(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a temporary file with the same pictures at the same times, coded without loss (FFV1 in Matroska).

    Raises `MediaError` if the animation is damaged or its pictures are too large.
    """
    try:
        image = open_picture("WEBP", file)
    except Exception as error:
        raise MediaError("is a damaged animation") from error
    if image.width * image.height > _MOST_PIXELS:
        raise MediaError(f"{image.width}x{image.height} pixels is above the limit of {_MOST_PIXELS} pixels")
    with tempfile.TemporaryFile() as converted:
        _write_video(image, converted)
        converted.seek(0)
        yield converted


def _write_video(image: Image.Image, out: IO[bytes]) -> None:
    given, coded = ("rgba", "bgra") if image.mode == "RGBA" else ("rgb24", "bgr0")
    with av.open(out, "w", format="matroska") as container:
        stream: VideoStream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = image.width, image.height, coded
        stream.codec_context.time_base = _MILLISECOND
        for milliseconds, pixels in _frames(image):
            frame = av.VideoFrame.from_ndarray(pixels, given)
            frame.pts, frame.time_base = milliseconds, _MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frames(image: Image.Image) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    """Yield each frame with the milliseconds at which it is shown."""
    shown = 0
    for number in range(getattr(image, "n_frames", 1)):
        try:
            image.seek(number)
            pixels = np.asarray(image, np.uint8)
        except Exception as error:
            raise MediaError(f"is an animation that is damaged after {shown / 1000:.1f} s") from error
        yield shown, pixels
        stated = int(image.info.get("duration", 0))
        shown += stated if stated >= _LEAST_MILLISECONDS else _DEFAULT_MILLISECONDS
