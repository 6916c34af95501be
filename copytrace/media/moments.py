"""Pictures of an opened video at a few moments, in a worker: the reader decodes on, or seeks to distant ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from copytrace.errors import MediaError
from copytrace.media.poses import Pose, rgb_pixels
from copytrace.media.rgb import Pixels
from copytrace.media.timelines import FALLBACK_RATE, LACK_OF_MEMORY, open_stream, read_packets

# Decoding this far costs about as much as seeking, since encoders put key frames two to ten seconds apart.
SEEK_DISTANCE = 10.0  # seconds
SAME_MOMENT = 1e-3  # seconds; callers pass rounded times
AFTER_END = 1.0  # seconds after the end of a video in which its last picture still counts


def read_moments(
    file: IO[bytes], name: str, settings: dict[str, Any], _: object = ()
) -> Iterator[tuple[dict[str, Any], list[Pixels]]]:
    """Yield the `number` and the picture of each of the `seconds` in `settings`, in their order of time.

    Pictures are reduced to a longer side of `side` pixels; see `frames_at`. Moments after the end are left out. As many
    threads decode as `threads` in `settings` says; 0 means one per core. Memory holds at most two full-size pictures.
    Raises `MediaError` if the file has no video.
    """
    seconds = settings["seconds"]
    with open_stream(file, name) as (container, stream):
        reader = _FrameReader(container, stream, settings["threads"])
        for number in sorted(range(len(seconds)), key=seconds.__getitem__):
            picture = reader.picture_at(seconds[number])
            if picture is not None:
                yield {"number": number}, [reader.reduce(picture, settings["side"])]


class _FrameReader:
    """A reader of a video's pictures at increasing seconds, which decodes on or seeks."""

    def __init__(self, container: InputContainer, stream: VideoStream, threads: int) -> None:
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        self._container, self._stream = container, stream
        self._threads, self._reformatter = threads, VideoReformatter()
        self._tick = float(stream.time_base or 0)
        self._between = float(1 / (stream.average_rate or FALLBACK_RATE))
        self._time = -self._between
        self._pictures = self._decode()
        first = next(self._pictures, None)
        if first is None:
            raise MediaError("has no picture that can be decoded")
        self._start, self._current = first
        self._current_start = self._start
        self._next = next(self._pictures, None)

    def picture_at(self, second: float) -> VideoFrame | None:
        """Return the picture shown at `second`, which must not be less than in the call before."""
        time = self._start + second + SAME_MOMENT
        if self._next is not None and time - self._current_start > SEEK_DISTANCE:
            self._seek(time)
        while self._next is not None and self._next[0] <= time:
            self._current_start, self._current = self._next
            self._next = next(self._pictures, None)
        lasts = (self._current.duration or 0) * self._tick or self._between
        is_over = self._next is None and time > self._current_start + lasts + AFTER_END
        return None if is_over else self._current

    def reduce(self, picture: VideoFrame, side: int) -> Pixels:
        """Return a picture upright with square pixels, reduced if its longer side exceeds `side` pixels."""
        pose = Pose.read(picture, self._stream)
        shorter, longer = sorted(pose.upright_size(picture.width, picture.height))
        short_side = max(1, shorter * side // longer) if longer > side else None
        return rgb_pixels(picture, pose, short_side, self._reformatter, self._threads)

    def _seek(self, time: float) -> None:
        """Seek to the key frame before `time`, or to the start if the file's index leads past it."""
        for target in (time, self._start):
            try:
                self._container.seek(int(target / self._tick), stream=self._stream)
            except (FFmpegError, ZeroDivisionError):
                return  # the file has no clock or no index, so decoding continues
            self._pictures = self._decode()
            self._next = next(self._pictures, None)
            if self._next is not None and self._next[0] <= time:
                return

    def _decode(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield pictures with their times on the file's clock; skip damaged packets."""
        for packet in chain(read_packets(self._container, self._stream), [None]):
            try:
                pictures = self._stream.codec_context.decode(packet)
            except LACK_OF_MEMORY:
                raise
            except FFmpegError:
                continue
            for picture in pictures:
                self._time = self._time + self._between if picture.pts is None else picture.pts * self._tick
                yield self._time, picture
