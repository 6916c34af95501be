"""Frames of a video at regular times, decoded in a process of its own.

Frames are RGB arrays: upright, with square pixels, without interlacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from copytrace.errors import MediaError
from copytrace.media.decoding_limits import DEFAULT_LIMITS, DecodingLimits
from copytrace.media.decoding_pool import decode
from copytrace.media.rgb import Pixels
from copytrace.media.timelines import Timeline, Times

# What a header says of a video's length is believed as far as there are packets and bytes to show for it.
LONGEST_STILL = 60.0  # seconds that a picture is shown, on average
LEAST_BYTES = 4.0  # of a second of video; a still scene takes ten times as many
SHORTEST_INTERVAL = 1e-3  # of an interval; a shorter rest at the end of a video belongs to the interval before


@dataclass(frozen=True, slots=True)
class Frame:
    """The picture that represents the interval `[start, end)`: the one shown in its middle.

    Seconds count from the first picture shown. `pixels` is uint8 RGB [H, W, 3], upright, with square pixels; frames of
    the same picture share the array.
    """

    start: float
    end: float
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of a video; `width` and `height` are those of upright pictures with square pixels."""

    duration: float  # seconds from the first picture to the end of the last, as far as they are credible
    width: int
    height: int
    frames_per_second: float  # nominal, above 0; from the header if the intervals vary
    start: float  # seconds on the container's clock when the first picture is shown


@dataclass(frozen=True, slots=True)
class Video:
    """A video whose packets have been read; its frames can be read any number of times. Holds no file open."""

    path: str
    info: VideoInfo
    timeline: Timeline
    breaks_off: bool  # the file cannot be parsed after its last packet
    max_pixels: int
    limits: DecodingLimits

    def frames(
        self,
        *,
        per_second: float = 1.0,
        short_side: int | None = None,
        threads: int = 0,
        start: float = 0.0,
        end: float = np.inf,
    ) -> Iterator[Frame]:
        """Yield the frames of the intervals [k / per_second, (k + 1) / per_second); the last ends with the video.

        Only intervals that begin in seconds [`start`, `end`) are read, and only the pictures that they need are
        decoded. With `short_side` (pixels), pictures whose shorter side is longer are reduced to that; none is
        enlarged. `threads` threads decode; 0 means as many as `limits` say. Memory does not grow with the length of the
        video.

        Raises `MediaError` after the last frame if the video is damaged or cut short; intervals without a readable
        picture are left out. Raises `ValueError` if `per_second` is not above 0, or `short_side` is below 1.
        """
        if not per_second > 0 or (short_side is not None and short_side < 1):
            raise ValueError(f"per_second must be above 0 and short_side at least 1, not {per_second} and {short_side}")
        duration = self.info.duration
        starts, ends = intervals(duration, per_second)
        wanted = (starts >= start) & (starts < end)
        if not wanted.any():
            return
        starts, ends = starts[wanted], ends[wanted]
        *arrays, facts = self.timeline.to_parts()
        settings = {"timeline": facts, "short_side": short_side, "threads": threads, "max_pixels": self.max_pixels}
        moments = (starts + ends) / 2
        found, pixels = 0, np.empty((0, 0, 3), np.uint8)
        for part, pictures in decode(
            "timed pictures", self.path, settings, [moments, *arrays], limits=self.limits, duration=duration
        ):
            if "number" not in part:
                self._check_end(part, found, len(starts))
                continue
            pixels = pictures[0] if pictures else pixels
            found += 1
            yield Frame(float(starts[part["number"]]), float(ends[part["number"]]), pixels)

    def _check_end(self, part: dict[str, int], found: int, wanted: int) -> None:
        """Raise `MediaError` if the video is damaged, cut short, or not as long as it says."""
        duration, stated = self.timeline.duration, self.timeline.stated_duration
        lost, damaged = part["lost"], part["damaged"]
        if not found:
            raise MediaError("has no picture that can be decoded")
        if self.info.duration < duration:
            packets = len(self.timeline.packet_times)
            credible = self.info.duration
            raise MediaError(f"has {packets:,} pictures for {duration:,.0f} s, of which {credible:,.0f} s are credible")
        if self.timeline.is_cut_short:
            raise MediaError(f"stops at {duration:.1f} s of {stated:.1f} s, as if cut short")
        if self.breaks_off:
            raise MediaError(f"breaks off at {duration:.1f} s, as if cut short")
        if lost or damaged:
            raise MediaError(f"is damaged: {damaged} packets and {lost} of {wanted} frames cannot be decoded")


def read_frames(
    path: str,
    *,
    per_second: float = 1.0,
    short_side: int | None = None,
    threads: int = 0,
    max_pixels: int = 200_000_000,
    limits: DecodingLimits = DEFAULT_LIMITS,
) -> Iterator[Frame]:
    """Open a local video or a URI that fsspec opens, and yield its frames; see `open_video` and `Video.frames`."""
    video = open_video(path, max_pixels=max_pixels, limits=limits)
    yield from video.frames(per_second=per_second, short_side=short_side, threads=threads)


def frame_windows(frames: Iterable[Frame], length: int) -> Iterator[list[Frame]]:
    """Yield all frames in their order, at most `length` at a time; those of a window have the same size.

    A `MediaError` of `frames` is raised after the frames before it.
    """
    window: list[Frame] = []
    error: MediaError | None = None
    try:
        for frame in frames:
            if window and frame.pixels.shape != window[0].pixels.shape:
                yield window
                window = []
            window.append(frame)
            if len(window) == length:
                yield window
                window = []
    except MediaError as damage:
        error = damage
    if window:
        yield window
    if error is not None:
        raise error


def frames_at(
    path: str, seconds: Sequence[float], side: int, *, limits: DecodingLimits = DEFAULT_LIMITS
) -> list[Pixels | None]:
    """Return the pictures of the video at `path` at each of `seconds`, in their order; None after its end.

    Seconds count from the first picture. Pictures are uint8 RGB [H, W, 3], upright, with square pixels; the longer side
    has at most `side` pixels. The file is read once, forwards, whatever the order and number of `seconds`; the reader
    seeks to distant moments.

    Raises `MediaError` with a one-line reason if the file cannot be read or has no video.
    """
    frames: list[Pixels | None] = [None] * len(seconds)
    for part, pictures in decode("moments", path, {"seconds": list(seconds), "side": side}, limits=limits):
        frames[part["number"]] = pictures[0]
    return frames


def open_video(path: str, *, max_pixels: int = 200_000_000, limits: DecodingLimits = DEFAULT_LIMITS) -> Video:
    """Read the packets of a local video or of a URI that fsspec opens, and decode only its first picture.

    Raises `MediaError` with a one-line reason, without the path, if the file is missing, unreadable or not a video, if
    no picture of it can be decoded, if its pictures have a side under 8 pixels or more than `max_pixels` pixels, if it
    crashes the decoder, or exceeds the `limits`; these hold for each pass over the file.
    """
    ((facts, arrays),) = decode("video", path, {"max_pixels": max_pixels}, limits=limits)
    timeline = Timeline.of_parts(arrays[0], arrays[1], facts["timeline"])
    credible = LONGEST_STILL + min(LONGEST_STILL * len(timeline.packet_times), facts["bytes"] / LEAST_BYTES)
    duration = min(timeline.duration, credible)
    info = VideoInfo(duration, facts["width"], facts["height"], timeline.rate, timeline.start)
    return Video(path, info, timeline, facts["breaks_off"], max_pixels, limits)


def intervals(duration: float, per_second: float) -> tuple[Times, Times]:
    """Return the starts and ends [N], in seconds, of the intervals of a video of `duration` seconds.

    The last may be shorter than the others. A rest under a thousandth of an interval belongs to the one before it.
    """
    number = max(1, int(np.ceil(duration * per_second - SHORTEST_INTERVAL)))
    edges = np.arange(number + 1) / per_second
    edges[-1] = duration
    return edges[:-1], edges[1:]
