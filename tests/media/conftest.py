"""Videos for tests, made when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

SCENE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (400, 700, 3), dtype=np.uint8), (0, 0), 2)
SCENE = cv2.normalize(SCENE, None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a video and returns its path.

    `pictures` are arrays, grey levels of plain ones, or the number of pictures of a camera that moves over a scene, so
    that coders find motion to predict. `times` are milliseconds of each; `restamp` alters seconds behind the coder's
    back.
    """

    def write(
        name: str,
        pictures: int | Sequence[int | np.ndarray],
        *,
        size: tuple[int, int] = (96, 64),
        codec: str = "mpeg4",
        rate: int = 10,
        times: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        prepare: Callable[[av.VideoStream], object] = lambda stream: None,
        restamp: Callable[[float], float] | None = None,
    ) -> Path:
        shown = [pan(number, *size) for number in range(pictures)] if isinstance(pictures, int) else pictures
        with av.open(str(tmp_path / name), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            prepare(stream)
            packets = []
            for number, picture in enumerate(shown):
                pixels = np.full((*size[::-1], 3), picture, np.uint8) if isinstance(picture, int) else picture
                if not number:
                    stream.height, stream.width = pixels.shape[:2]
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts = number if times is None else times[number]
                frame.time_base = stream.codec_context.time_base or Fraction(1, rate)
                packets += stream.encode(frame)
            for packet in packets + stream.encode():
                if restamp:
                    tick = packet.time_base
                    packet.pts, packet.dts = (
                        round(restamp(float(at * tick)) / tick) for at in (packet.pts, packet.dts)
                    )
                container.mux(packet)
        return tmp_path / name

    return write


def pan(number: int, width: int, height: int) -> np.ndarray:
    x, y = 3 * number % (700 - width), 2 * number % (400 - height)
    return np.ascontiguousarray(SCENE[y : y + height, x : x + width])
