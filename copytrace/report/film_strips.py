"""Film strips for the reports: a few moments of a video side by side in one small picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.poses import Pose, rgb_pixels
from copytrace.media.prefetch import prefetch
from copytrace.media.rgb import Pixels
from copytrace.media.timelines import FALLBACK_RATE, open_stream, read_packets
from copytrace.report.pictures import Unreadable
from copytrace.step import current_progress

WEBP_QUALITY = 60
THREADS = 2
FILM = (13, 17, 22)  # color of a cell around its picture, the same on light and dark pages
# Decoding this far costs about as much as seeking, since encoders put key frames two to ten seconds apart.
SEEK_DISTANCE = 10.0  # seconds
SAME_MOMENT = 1e-3  # seconds; callers pass rounded times
AFTER_END = 1.0  # seconds after the end of a video in which its last picture still counts


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """Cells of equal size side by side, as base64 of one WebP picture.

    `ratio` is the width of a cell divided by its height. `content` is the box of the pictures in their cells: x0, y0,
    x1, y1 in 0..1 of a cell; the rest of a cell is dark.
    """

    ratio: float
    content: tuple[float, float, float, float]
    base64: str


# The file of a strip, and the seconds of its cells.
StripKey = tuple[str, tuple[float, ...]]


def film_frames(path: str, seconds: Sequence[float], side: int) -> list[Pixels | None]:
    """Return the pictures of the video at `path` at each of `seconds`, in their order; None after its end.

    Seconds count from the first picture. Pictures are uint8 RGB [H, W, 3], upright, with square pixels; the longer side
    has at most `side` pixels. The file is read once, forwards, whatever the order and number of `seconds`; the reader
    seeks to distant moments. Memory holds at most two full-size pictures.

    Raises `MediaError` with a one-line reason if the file cannot be read or has no video.
    """
    frames: list[Pixels | None] = [None] * len(seconds)
    with open_stream(path) as (container, stream):
        reader = _FrameReader(container, stream)
        for index in sorted(range(len(seconds)), key=seconds.__getitem__):
            picture = reader.picture_at(seconds[index])
            frames[index] = None if picture is None else reader.reduce(picture, side)
    return frames


def make_film_strips(wanted: Sequence[StripKey], side: int) -> dict[StripKey, FilmStrip | Unreadable]:
    """Return the strip for each of `wanted`, with cells of at most `side` pixels each way; read each file once.

    The same files give the same bytes on the same machine and versions. If a file cannot be read, the reason replaces
    each of its strips.
    """
    seconds_by_path: dict[str, list[tuple[float, ...]]] = {}
    for path, seconds in dict.fromkeys(wanted):
        seconds_by_path.setdefault(path, []).append(seconds)

    def load(path: str) -> list[FilmStrip | Unreadable]:
        moments = [second for seconds in seconds_by_path[path] for second in seconds]
        frames = iter(film_frames(path, moments, side))
        return [_compose_strip([next(frames) for _ in seconds]) for seconds in seconds_by_path[path]]

    strips: dict[StripKey, FilmStrip | Unreadable] = {}
    with current_progress().step("film strips of the report", len(seconds_by_path), "videos") as step:
        for path, loaded in prefetch(seconds_by_path, load, threads=THREADS, ahead=THREADS):
            for index, seconds in enumerate(seconds_by_path[path]):
                strips[path, seconds] = Unreadable(str(loaded)) if isinstance(loaded, MediaError) else loaded[index]
            step.advance()
    return strips


class _FrameReader:
    """A reader of a video's pictures at increasing seconds, which decodes on or seeks."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        stream.codec_context.thread_type = "AUTO"
        self._container, self._stream = container, stream
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
        return rgb_pixels(picture, pose, max(1, shorter * side // longer) if longer > side else None)

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
            except FFmpegError:
                continue
            for picture in pictures:
                self._time = self._time + self._between if picture.pts is None else picture.pts * self._tick
                yield self._time, picture


def _compose_strip(frames: Sequence[Pixels | None]) -> FilmStrip | Unreadable:
    """Return the frames side by side, in cells as wide as the longer side so that the columns of strips align."""
    pictures = [frame for frame in frames if frame is not None]
    if not pictures:
        return Unreadable("the video shows nothing at these seconds")
    height, width = (max(frame.shape[axis] for frame in pictures) for axis in (0, 1))
    cell = max(width, height)
    strip = Image.new("RGB", (cell * len(frames), height), FILM)
    for index, frame in enumerate(frames):
        if frame is not None:
            x, y = (cell - frame.shape[1]) // 2, (height - frame.shape[0]) // 2
            strip.paste(Image.fromarray(frame), (index * cell + x, y))
    encoded = io.BytesIO()
    strip.save(encoded, "WEBP", quality=WEBP_QUALITY, method=4)
    left = (cell - width) // 2 / cell
    return FilmStrip(
        cell / height, (left, 0.0, left + width / cell, 1.0), base64.b64encode(encoded.getvalue()).decode()
    )
