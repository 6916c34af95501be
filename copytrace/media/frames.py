"""Frames of a video at regular times, in one pass that decodes only pictures that are wanted or referred to.

Frames are RGB arrays: upright, with square pixels, without interlacing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from copytrace.errors import MediaError
from copytrace.media.containers import no_video
from copytrace.media.decode import MIN_SIDE
from copytrace.media.poses import Pose, rgb_pixels
from copytrace.media.rgb import Pixels
from copytrace.media.timelines import (
    TOLERANCE,
    Step,
    Timeline,
    Times,
    VideoPacket,
    open_stream,
    read_packets,
    read_timeline,
)

SHORTEST_INTERVAL = 1e-3  # of an interval; a shorter rest at the end of a video belongs to the interval before
STAND_IN = 1.0  # seconds; a lost picture is replaced by the one before it, if that is no older than this
FEW_PACKETS = 50  # packets that are read before a video may be given up as damaged
MOST_DAMAGE = 0.5  # share of the packets read; with more damaged packets, a video is given up


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

    duration: float  # seconds from the first picture to the end of the last
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
        enlarged. `threads` threads decode; 0 means one per core. Memory does not grow with the length of the video.

        Raises `MediaError` after the last frame if the video is damaged or cut short; intervals without a readable
        picture are left out. Raises `ValueError` if `per_second` is not above 0, or `short_side` is below 1.
        """
        if not per_second > 0 or (short_side is not None and short_side < 1):
            raise ValueError(f"per_second must be above 0 and short_side at least 1, not {per_second} and {short_side}")
        starts, ends = intervals(self.info.duration, per_second)
        wanted = (starts >= start) & (starts < end)
        if not wanted.any():
            return
        starts, ends = starts[wanted], ends[wanted]
        middles = (starts + ends) / 2
        due = self.timeline.picture_starts(middles)
        with open_stream(self.path) as (container, stream):
            decoding = _Decoding(container, stream, self.timeline, self.timeline.plan(middles), threads)
            reformatter = VideoReformatter()
            found, lost, last, pixels = 0, 0, None, np.empty((0, 0, 3), np.uint8)
            for number, (time, picture) in enumerate(_match_pictures(middles, decoding.pictures())):
                missing = picture is None or (self.timeline.keeps_time and time < due[number] - TOLERANCE)
                lost += missing
                if picture is None or (missing and time < due[number] - STAND_IN):
                    continue
                if picture is not last:
                    check_size(picture.width, picture.height, self.max_pixels)
                    last, pixels = picture, rgb_pixels(picture, Pose.read(picture, stream), short_side, reformatter)
                found += 1
                yield Frame(float(starts[number]), float(ends[number]), pixels)
        if not found:
            raise MediaError("has no picture that can be decoded")
        self._check_end()
        if lost or decoding.damaged:
            damaged = decoding.damaged
            raise MediaError(f"is damaged: {damaged} packets and {lost} of {len(due)} frames cannot be decoded")

    def _check_end(self) -> None:
        duration, stated = self.timeline.duration, self.timeline.stated_duration
        if self.timeline.is_cut_short:
            raise MediaError(f"stops at {duration:.1f} s of {stated:.1f} s, as if cut short")
        if self.breaks_off:
            raise MediaError(f"breaks off at {duration:.1f} s, as if cut short")


def read_frames(
    path: str,
    *,
    per_second: float = 1.0,
    short_side: int | None = None,
    threads: int = 0,
    max_pixels: int = 200_000_000,
) -> Iterator[Frame]:
    """Open a local video or a URI that fsspec opens, and yield its frames; see `open_video` and `Video.frames`."""
    yield from open_video(path, max_pixels=max_pixels).frames(
        per_second=per_second, short_side=short_side, threads=threads
    )


def open_video(path: str, *, max_pixels: int = 200_000_000) -> Video:
    """Read the packets of a local video or of a URI that fsspec opens, and decode only its first picture.

    Raises `MediaError` with a one-line reason, without the path, if the file is missing, unreadable or not a video, if
    no picture of it can be decoded, or if its pictures have a side under 8 pixels or more than `max_pixels` pixels.
    """
    with open_stream(path) as (container, stream):
        check_size(stream.codec_context.width, stream.codec_context.height, max_pixels)
        stream.codec_context.thread_count = 1  # with more, the first picture comes out only after one per thread
        first: list[VideoFrame] = []
        ended_by: list[FFmpegError] = []
        try:
            timeline = read_timeline(stream, _decode_first(read_packets(container, stream, ended_by), stream, first))
        except MediaError as error:
            raise no_video(path, str(error)) from error
        if not first:
            raise no_video(path, "has no picture that can be decoded")
        width, height = Pose.read(first[0], stream).upright_size(first[0].width, first[0].height)
    info = VideoInfo(timeline.duration, width, height, timeline.rate, timeline.start)
    return Video(path, info, timeline, bool(ended_by), max_pixels)


def intervals(duration: float, per_second: float) -> tuple[Times, Times]:
    """Return the starts and ends [N], in seconds, of the intervals of a video of `duration` seconds.

    The last may be shorter than the others. A rest under a thousandth of an interval belongs to the one before it.
    """
    number = max(1, int(np.ceil(duration * per_second - SHORTEST_INTERVAL)))
    edges = np.arange(number + 1) / per_second
    edges[-1] = duration
    return edges[:-1], edges[1:]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise `MediaError` if pictures are too small to describe, or too large to decode safely."""
    if width * height > max_pixels:
        raise MediaError(f"{width}x{height} pixels is above the limit of {max_pixels} pixels (media.max_pixels)")
    if 0 < min(width, height) < MIN_SIDE:
        raise MediaError(f"{width}x{height} pixels is too small; the shorter side must be at least {MIN_SIDE}")


def _decode_first(
    packets: Iterator[VideoPacket], stream: VideoStream, first: list[VideoFrame]
) -> Iterator[VideoPacket]:
    """Yield the packets unchanged, and decode them until `first` has a picture."""
    for packet in packets:
        if not first:
            first += _decode(stream, packet) or ()
        yield packet
    if not first:
        first += _decode(stream, None) or ()


def _decode(stream: VideoStream, packet: VideoPacket | None) -> list[VideoFrame] | None:
    """Return the pictures that the decoder gives for a packet, or for the end (None); None if it cannot be decoded."""
    try:
        return stream.codec_context.decode(packet)
    except FFmpegError:
        return None


def _match_pictures(
    middles: Times, pictures: Iterator[tuple[float, VideoFrame]]
) -> Iterator[tuple[float, VideoFrame | None]]:
    """Yield for each moment, in seconds, the start and the picture shown then; None before the first picture."""
    shown: tuple[float, VideoFrame | None] = (-np.inf, None)
    number = 0
    for time, picture in pictures:
        while number < len(middles) and middles[number] + TOLERANCE < time:
            yield shown
            number += 1
        shown = (time, picture)
    for _ in middles[number:]:
        yield shown


class _Decoding:
    """One decoding pass over a video, with the number of damaged packets so far."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, timeline: Timeline, steps: Pixels, threads: int
    ) -> None:
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        self._container = container
        self._stream = stream
        self._timeline = timeline
        self._steps = steps
        self._read = 0
        self.damaged = 0

    def pictures(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield the pictures in display order, each with its seconds since the first."""
        time = -1 / self._timeline.rate
        for picture in self._decode_needed():
            if self._timeline.keeps_time and picture.pts is not None:
                # Not `picture.time`: PyAV gives the pictures that come out at the end no time base.
                time = picture.pts * self._timeline.tick - self._timeline.start
            else:
                time += 1 / self._timeline.rate
            yield time, picture

    def _decode_needed(self) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        needed = int(np.flatnonzero(self._steps != Step.LEAVE_OUT)[-1]) + 1
        drained = False
        for step, packet in zip(self._steps, islice(read_packets(self._container, self._stream), needed), strict=False):
            if step == Step.LEAVE_OUT:
                if not drained:
                    # A stream may tell its decoder to drop, at a random access point, the pictures still inside.
                    yield from self._decode(None)
                    drained = True
                continue
            if drained:
                context.flush_buffers()
                drained = False
            context.skip_frame = "NONREF" if step == Step.SKIP_IF_DISPOSABLE else "DEFAULT"
            yield from self._decode(packet)
        yield from self._decode(None)

    def _decode(self, packet: VideoPacket | None) -> list[VideoFrame]:
        pictures = _decode(self._stream, packet)
        self._read += 1
        self.damaged += pictures is None
        if self._read > FEW_PACKETS and self.damaged > MOST_DAMAGE * self._read:
            raise MediaError(f"is damaged: {self.damaged} of the first {self._read} packets cannot be decoded")
        return pictures or []
