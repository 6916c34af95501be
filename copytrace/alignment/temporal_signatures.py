"""Temporal signatures: how much a video moves, how bright, contrasted and colored it is, from moment to moment.

Frames a second apart tell where a copy was taken from to about half a second. Its temporal signature, eight values a
second, tells it to about a tenth: cuts and movements of a copy happen when those of the original do. It hardly depends
on colors, mirroring, cropping or pictures laid over, since it has no place within the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import MediaError
from copytrace.matching.ground import BLOCK, flat_ground
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.frames import Frame, open_video
from copytrace.panes.find_panes import crop

Float64s = NDArray[np.float64]

PER_SECOND = 8  # frames that are compared
READ_SIDE = 96  # shorter side of the frames, in pixels
SIDE = 32  # of the pictures that are measured, in pixels
ADJACENT = 1.5 / PER_SECOND  # seconds from one frame to the next, at most; frames further apart leave a gap
CHANNELS = 5  # numbers of a moment


@dataclass(frozen=True, slots=True)
class TemporalSignature:
    """The signature of a video: `values` float64 [N, 5] at `times` float64 [N] in seconds, in order, with gaps or none.

    A row has log(1 + d), where d is the mean difference in luma of two frames an eighth of a second apart, then the
    mean of their luma, its standard deviation, and the means of Cr and Cb. `duration` is that of the whole video, in
    seconds; `ground` (0 to 1) says how drawn its frames look.
    """

    times: Float64s
    values: Float64s
    duration: float
    ground: float = 0.0

    @classmethod
    def of(cls, frames: Iterable[Frame], duration: float, box: Floats | None = None) -> TemporalSignature:
        """Measure frames at `PER_SECOND`, in order, within a box (shares of the frame) if one is given.

        `duration` is that of the video they are from. Motion is smoothed a little, since the frames of a copy fall
        elsewhere between the ticks.
        """
        times: list[float] = []
        values: list[Float64s] = []
        grounds: list[float] = []
        last: tuple[float, Float64s] | None = None
        for number, frame in enumerate(frames):
            picture = frame.pixels if box is None else crop(frame.pixels, box)
            if picture is None:
                continue
            if number % PER_SECOND == 0 and min(picture.shape[:2]) >= BLOCK:
                grounds.append(flat_ground(picture))
            small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            colors = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float64)
            if last is not None and frame.start - last[0] < ADJACENT:
                times.append(frame.start)
                values.append(_measure(last[1], colors))
            last = frame.start, colors
        signature = np.array(values).reshape(-1, CHANNELS)
        if values:
            signature[:, 0] = np.convolve(np.pad(signature[:, 0], 1, mode="edge"), (0.25, 0.5, 0.25), "valid")
        return cls(np.array(times), signature, duration, float(np.median(grounds)) if grounds else 0.0)

    def at(self, times: Float64s) -> Float64s:
        """Return the values [M, K, 5] at `times` [M, K], interpolated; NaN beyond the ends and in gaps."""
        after = np.clip(np.searchsorted(self.times, times), 1, len(self.times) - 1)
        before = self.times[after - 1]
        length = self.times[after] - before
        share = np.where(length < ADJACENT, (times - before) / length, np.nan)
        share = np.where((share >= 0) & (share <= 1), share, np.nan)[..., None]
        return np.asarray(self.values[after - 1] * (1 - share) + self.values[after] * share)


def _measure(first: Float64s, second: Float64s) -> Float64s:
    """Return the row of a signature of two successive pictures [H, W, 3] in YCrCb."""
    motion = np.log1p(np.abs(second[..., 0] - first[..., 0]).mean())
    luma, cr, cb = ((first + second) / 2).mean(axis=(0, 1))
    contrast = (first[..., 0].std() + second[..., 0].std()) / 2
    return np.array([motion, luma, contrast, cr, cb])


def read_signature(
    path: str, windows: Sequence[tuple[float, float]], limits: DecodingLimits, box: Floats | None = None
) -> TemporalSignature:
    """Return the signature of a video in windows, (start, end) in seconds, as far as it can be read.

    Raises `MediaError` if it cannot be opened.
    """
    video = open_video(path, limits=limits)
    duration, parts = video.info.duration, []
    for start, end in windows:
        frames = video.frames(per_second=PER_SECOND, short_side=READ_SIDE, start=start, end=end)
        parts.append(TemporalSignature.of(_readable(frames), duration, box))
    times, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "values"))
    return TemporalSignature(times, values, duration, max(part.ground for part in parts))


def _readable(frames: Iterator[Frame]) -> Iterator[Frame]:
    with suppress(MediaError):
        yield from frames
