"""Film strips for the reports: a few moments of a video side by side in one small picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.frames import frames_at
from copytrace.media.prefetch import prefetch
from copytrace.media.rgb import Pixels
from copytrace.report.pictures import Unreadable
from copytrace.step import current_progress

WEBP_QUALITY = 60
THREADS = 2
FILM = (13, 17, 22)  # color of a cell around its picture, the same on light and dark pages


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
        frames = iter(frames_at(path, moments, side))
        return [_compose_strip([next(frames) for _ in seconds]) for seconds in seconds_by_path[path]]

    strips: dict[StripKey, FilmStrip | Unreadable] = {}
    with current_progress().step("film strips of the report", len(seconds_by_path), "videos") as step:
        for path, loaded in prefetch(seconds_by_path, load, threads=THREADS, ahead=THREADS):
            for index, seconds in enumerate(seconds_by_path[path]):
                strips[path, seconds] = Unreadable(str(loaded)) if isinstance(loaded, MediaError) else loaded[index]
            step.advance()
    return strips


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
