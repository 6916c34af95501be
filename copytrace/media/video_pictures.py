"""Pictures of an opened video at given times, in a worker: one pass decodes only what is wanted or referred to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from copytrace.errors import MediaError
from copytrace.media.containers import no_video
from copytrace.media.decoding_channel import Array
from copytrace.media.formats import MIN_SIDE
from copytrace.media.poses import Pose, rgb_pixels
from copytrace.media.rgb import Pixels
from copytrace.media.timelines import (
    LACK_OF_MEMORY,
    TOLERANCE,
    Step,
    Timeline,
    Times,
    VideoPacket,
    open_stream,
    read_packets,
    read_timeline,
)

STAND_IN = 1.0  # seconds; a lost picture is replaced by the one before it, if that is no older than this
FEW_PACKETS = 50  # packets that are read before a video may be given up as damaged
BYTES_OF_A_PICTURE = 4  # a pixel, as in `pictures`
MOST_DAMAGE = 0.5  # share of the packets read; with more damaged packets, a video is given up

Parts = Iterator[tuple[dict[str, Any], list[Array]]]


def read_video(file: IO[bytes], name: str, settings: dict[str, Any], _: object = ()) -> Parts:
    """Read the packets of a video as `open_video` says; yield what `Video` has: JSON, and the arrays of `Timeline`.

    `settings` has `max_pixels`; `name` is the path of the file. Raises `MediaError` as `open_video` does.
    """
    with open_stream(file, name) as (container, stream):
        check_size(stream.codec_context.width, stream.codec_context.height, settings["max_pixels"])
        stream.codec_context.thread_count = 1  # with more, the first picture comes out only after one per thread
        first: list[VideoFrame] = []
        ended_by: list[FFmpegError] = []
        try:
            timeline = read_timeline(stream, _decode_first(read_packets(container, stream, ended_by), stream, first))
        except MediaError as error:
            raise no_video(file, name, str(error)) from error
        if not first:
            raise no_video(file, name, "has no picture that can be decoded")
        width, height = Pose.read(first[0], stream).upright_size(first[0].width, first[0].height)
    times, random_access, facts = timeline.to_parts()
    size = {"width": width, "height": height, "bytes": file.seek(0, io.SEEK_END)}
    yield size | {"timeline": facts, "breaks_off": bool(ended_by)}, [times, random_access]


def read_timed_pictures(file: IO[bytes], name: str, settings: dict[str, Any], arrays: list[Array]) -> Parts:
    """Yield the picture shown at each moment: its `number`, and the pixels unless they are those of the part before.

    `arrays` are the moments, in ascending seconds, and those of the timeline, whose other fields are in `settings`
    beside `max_pixels`, `short_side` and `threads`. A moment without a readable picture is left out. The last part has
    the numbers of `lost` moments and `damaged` packets.
    """
    moments, timeline = arrays[0], Timeline.of_parts(arrays[1], arrays[2], settings["timeline"])
    due = timeline.picture_starts(moments)
    with open_stream(file, name) as (container, stream):
        decoding = _Decoding(container, stream, timeline, timeline.plan(moments), settings["threads"])
        reformatter = VideoReformatter()
        lost, last = 0, None
        for number, (time, picture) in enumerate(_match_pictures(moments, decoding.pictures())):
            missing = picture is None or (timeline.keeps_time and time < due[number] - TOLERANCE)
            lost += missing
            if picture is None or (missing and time < due[number] - STAND_IN):
                continue
            pixels: list[Array] = []
            if picture is not last:
                check_size(picture.width, picture.height, settings["max_pixels"])
                pose = Pose.read(picture, stream)
                last = picture
                pixels = [rgb_pixels(picture, pose, settings["short_side"], reformatter, settings["threads"])]
            yield {"number": number}, pixels
    yield {"lost": int(lost), "damaged": decoding.damaged}, []


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
    except LACK_OF_MEMORY:
        raise
    except FFmpegError:
        # Many decoders do not say that memory ran out, those of several threads never: this raises `MemoryError` then.
        bytearray(stream.codec_context.width * stream.codec_context.height * BYTES_OF_A_PICTURE)
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
