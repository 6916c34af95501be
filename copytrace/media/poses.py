"""Pictures of videos as they are shown: upright, with square pixels, without interlacing, as RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from copytrace.media.rgb import Pixels
from copytrace.media.transparency import lay_on_ground

# How a picture is transposed, flipped across and flipped down for a number of quarter turns to the left.
_TURNS = {1: (True, False, True), 2: (False, True, True), 3: (True, True, False)}
FLATTEST_PIXEL = 8.0  # ratio of a pixel's sides; a file that states more is wrong


@dataclass(frozen=True, slots=True)
class Pose:
    """How coded pictures must be turned and scaled for display: first the axes are exchanged, then flipped."""

    pixel_aspect: float = 1.0  # width of a coded pixel divided by its height
    transposed: bool = False
    flipped_across: bool = False  # left to right
    flipped_down: bool = False  # top to bottom

    @classmethod
    def read(cls, picture: VideoFrame, stream: VideoStream) -> Pose:
        """Return the pose of a picture from its display matrix (ISO/IEC 14496-12, 8.5.3) and its pixels' aspect.

        Angles are rounded to quarter turns.
        """
        aspect = float(stream.sample_aspect_ratio or 1)
        if not 1 / FLATTEST_PIXEL <= aspect <= FLATTEST_PIXEL:
            aspect = 1.0
        try:
            side_data = cast(SideDataContainer, picture.side_data)  # PyAV's stubs give another type
        except ValueError:  # it has data of a type that PyAV does not know, such as EXIF
            return cls(aspect, *_TURNS.get(round(picture.rotation / 90) % 4, ()))
        if Type.DISPLAYMATRIX not in side_data:
            return cls(aspect)
        matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), np.int32).reshape(3, 3)
        (right_x, right_y), (down_x, down_y) = matrix[:2, :2].tolist()
        if abs(right_x) + abs(down_y) >= abs(right_y) + abs(down_x):
            return cls(aspect, False, right_x < 0, down_y < 0)
        return cls(aspect, True, down_x < 0, right_y < 0)

    def square_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size with square pixels, before turning; the longer side of a pixel is shortened."""
        if self.pixel_aspect > 1:
            return width, max(1, round(height / self.pixel_aspect))
        return max(1, round(width * self.pixel_aspect)), height

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of a coded picture after turning, with square pixels."""
        size = self.square_size(width, height)
        return size[::-1] if self.transposed else size

    def turn(self, pixels: Pixels) -> Pixels:
        """Turn and flip [H, W, 3]."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.flipped_across:
            pixels = pixels[:, ::-1]
        if self.flipped_down:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


def rgb_pixels(
    picture: VideoFrame, pose: Pose, short_side: int | None, reformatter: VideoReformatter, threads: int
) -> Pixels:
    """Return a picture as uint8 RGB [H, W, 3]; if its shorter side exceeds `short_side` pixels, reduce it to that.

    Of an interlaced picture one field is used, since the other shows another moment. A transparent picture is laid on
    the ground that `choose_ground` returns. A `reformatter` shared by all pictures of a video computes the scaling
    only once; `threads` threads scale, and 0 means one per core.
    """
    width, height = pose.square_size(picture.width, picture.height)
    if short_side is not None and short_side < min(width, height):
        scale = short_side / min(width, height)
        width, height = max(round(width * scale), short_side), max(round(height * scale), short_side)
    if picture.interlaced_frame:
        field = np.asarray(picture.to_ndarray(format="rgb24", threads=threads), np.uint8)[::2]
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(field), "rgb24")
    transparent = any(component.is_alpha for component in picture.format.components)
    pixel_format = "rgba" if transparent else "rgb24"
    scaled = reformatter.reformat(
        picture, width, height, pixel_format, interpolation=Interpolation.AREA, threads=threads
    )
    pixels = np.asarray(scaled.to_ndarray(), np.uint8)
    return pose.turn(lay_on_ground(pixels) if transparent else pixels)
