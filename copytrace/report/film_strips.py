"""Film strips for the reports: a few moments of a video in a row, in one small picture."""

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
from copytrace.media.decode import Pixels
from copytrace.media.pictures import Pose, rgb_pixels
from copytrace.media.prefetch import prefetch
from copytrace.media.timelines import FALLBACK_RATE, open_stream, read_packets
from copytrace.progress import Progress, SilentProgress
from copytrace.report.pictures import Unreadable

WEBP_QUALITY = 60
THREADS = 2
FILM = (13, 17, 22)  # what shows where a picture does not fill its cell, the same on light and dark pages
# Decoding on for less than this costs about as much as decoding from the key frame before it, which encoders set
# every two to ten seconds.
SECONDS_BEFORE_A_JUMP = 10.0
SAME_MOMENT = 1e-3  # seconds; times are rounded by who wrote them down
SECONDS_AFTER_THE_END = 1.0


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """Cells of equal size side by side, as base64 of one WebP picture.

    `ratio` is a cell's width over its height. `content` is where the pictures lie in their cells: x0, y0, x1, y1 in
    0..1 of a cell; what is outside of it is dark.
    """

    ratio: float
    content: tuple[float, float, float, float]
    base64: str


# A strip's file, and the seconds that its cells show.
Wanted = tuple[str, tuple[float, ...]]


def film_frames(path: str, seconds: Sequence[float], side: int) -> list[Pixels | None]:
    """Return what the video at `path` shows at each of `seconds`, in their order; None where it shows nothing.

    Seconds count from the first picture. Pictures are uint8 RGB [height, width, 3], upright, with square pixels, the
    longer side at most `side`. The file is read once, forwards, whatever the order and number of `seconds`: far
    moments are jumped to, and no more than two full-size pictures are held.

    Raises `MediaError` with a one-line reason if the file cannot be read or holds no video.
    """
    frames: list[Pixels | None] = [None] * len(seconds)
    with open_stream(path) as (container, stream):
        reel = _Reel(container, stream)
        for index in sorted(range(len(seconds)), key=seconds.__getitem__):
            picture = reel.picture_at(seconds[index])
            frames[index] = None if picture is None else reel.small(picture, side)
    return frames


def make_film_strips(
    wanted: Sequence[Wanted], side: int, *, progress: Progress | None = None
) -> dict[Wanted, FilmStrip | Unreadable]:
    """Return the strip of each of `wanted`, cells at most `side` pixels wide and high, each file read once.

    The same files give the same bytes on the same machine and versions. A file that cannot be read gives the reason in
    place of each of its strips.
    """
    of_file: dict[str, list[tuple[float, ...]]] = {}
    for path, seconds in dict.fromkeys(wanted):
        of_file.setdefault(path, []).append(seconds)

    def load(path: str) -> list[FilmStrip | Unreadable]:
        moments = [second for seconds in of_file[path] for second in seconds]
        frames = iter(film_frames(path, moments, side))
        return [_strip([next(frames) for _ in seconds]) for seconds in of_file[path]]

    strips: dict[Wanted, FilmStrip | Unreadable] = {}
    with (progress or SilentProgress()).stage("film strips of the report", len(of_file), "videos") as stage:
        for path, loaded in prefetch(of_file, load, threads=THREADS, ahead=THREADS):
            for index, seconds in enumerate(of_file[path]):
                strips[path, seconds] = Unreadable(str(loaded)) if isinstance(loaded, MediaError) else loaded[index]
            stage.advance()
    return strips


class _Reel:
    """A video that is wound forwards, decoding on or jumping ahead, and asked what it shows."""

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
        self._start, self._shown = first
        self._shown_from = self._start
        self._next = next(self._pictures, None)

    def picture_at(self, second: float) -> VideoFrame | None:
        """Return the picture shown at `second`, which must not be before what was asked last."""
        time = self._start + second + SAME_MOMENT
        if self._next is not None and time - self._shown_from > SECONDS_BEFORE_A_JUMP:
            self._jump(time)
        while self._next is not None and self._next[0] <= time:
            self._shown_from, self._shown = self._next
            self._next = next(self._pictures, None)
        lasts = (self._shown.duration or 0) * self._tick or self._between
        is_over = self._next is None and time > self._shown_from + lasts + SECONDS_AFTER_THE_END
        return None if is_over else self._shown

    def small(self, picture: VideoFrame, side: int) -> Pixels:
        """Return a picture as it should be seen, reduced if its longer side is longer than `side`."""
        pose = Pose.of(picture, self._stream)
        shorter, longer = sorted(pose.upright_size(picture.width, picture.height))
        return rgb_pixels(picture, pose, max(1, shorter * side // longer) if longer > side else None)

    def _jump(self, time: float) -> None:
        """Go to the key frame before `time`; where the file's index leads past it, go on from the start instead."""
        for target in (time, self._start):
            try:
                self._container.seek(int(target / self._tick), stream=self._stream)
            except (FFmpegError, ZeroDivisionError):
                return  # the file has no clock or no index: decoding goes on where it was
            self._pictures = self._decode()
            self._next = next(self._pictures, None)
            if self._next is not None and self._next[0] <= time:
                return

    def _decode(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yield pictures with their time on the file's clock; a damaged packet costs its own pictures only."""
        for packet in chain(read_packets(self._container, self._stream), [None]):
            try:
                pictures = self._stream.codec_context.decode(packet)
            except FFmpegError:
                continue
            for picture in pictures:
                self._time = self._time + self._between if picture.pts is None else picture.pts * self._tick
                yield self._time, picture


def _strip(frames: Sequence[Pixels | None]) -> FilmStrip | Unreadable:
    """Return the frames side by side in cells as wide as the longer side, so that columns of strips line up."""
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
