"""Encoding of pictures as a video, and scaling of pictures to one size, which a video needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

from copytrace.media.rgb import Pixels
from copytrace.storage import atomic_path


def write_video(pictures: Iterable[Pixels], path: Path, *, rate: int, quantizer: int = 2) -> int:
    """Write uint8 RGB [H, W, 3] pictures of one size as MPEG-4 in MP4; return their number.

    `rate` is in pictures per second; `quantizer` is 1 (finest) to 31 (coarsest). H and W are even. The same pictures
    give the same bytes on the same machine and versions. Memory does not grow with the number of pictures. Without a
    picture, no file is written.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        return 0
    count = 0
    options = {"flags": "+bitexact", "qmin": str(quantizer), "qmax": str(quantizer)}
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("mpeg4", rate=rate, options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes must not depend on the number of cores
        for picture in chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            count += 1
        container.mux(stream.encode())
    return count


def crop_to_fill(picture: Pixels, width: int, height: int) -> Pixels:
    """Scale the middle of a picture to `width` by `height` pixels; what exceeds that shape is cut off."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    across, down = round(width / scale), round(height / scale)
    left, top = (picture.shape[1] - across) // 2, (picture.shape[0] - down) // 2
    part = picture[top : top + down, left : left + across]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def fit_within(picture: Pixels, width: int, height: int) -> Pixels:
    """Scale a whole picture into `width` by `height` pixels, between black bars."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    across, down = (max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - across) // 2, (height - down) // 2
    scaled = cv2.resize(picture, (across, down), interpolation=cv2.INTER_AREA)
    canvas[top : top + down, left : left + across] = scaled
    return canvas
