"""Pictures of the report of video matches: film strips of a few moments, a pair per segment, and a matrix per pair."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from copytrace.errors import MediaError
from copytrace.media.frames import frames_at
from copytrace.media.prefetch import prefetch
from copytrace.media.rgb import Pixels
from copytrace.object_store import redact
from copytrace.report.page import SIDES, Side
from copytrace.report.pictures import Unreadable
from copytrace.report.similarity_picture import similarity_picture
from copytrace.report.time_axis import format_clock, media_link
from copytrace.report.video_matches import CondensedMatch, PaneSegment
from copytrace.step import current_progress

FRAMES_PER_STRIP = 8
NEARLY_ALL = 0.98  # of the width and height of a picture
WEBP_QUALITY = 60
THREADS = 2
FILM = (13, 17, 22)  # color of a cell around its picture, the same on light and dark pages

# Data of the two film strips of a segment, for the page.
Film = dict[Side, dict[str, Any]]
# The file of a strip, and the seconds of its cells.
StripKey = tuple[str, tuple[float, ...]]

logger = logging.getLogger(__name__)


class PairPictures:
    """The film strips and matrices of the page, and links to the videos.

    `paths` give the file of each id. The best `max_strips` segments of a pair have strips, of cells of `cell` pixels.
    """

    def __init__(
        self,
        pairs: Sequence[CondensedMatch],
        paths: Mapping[Side, Mapping[str, str]],
        max_strips: int,
        cell: int,
        page: Path,
    ) -> None:
        self._paths, self._max_strips, self._page = paths, max_strips, page
        wanted = [
            (path, moments[side])
            for pair in pairs
            for moments in map(_moments, pair.segments[:max_strips])
            for side in SIDES
            if (path := self._path(side, pair)) is not None
        ]
        self._strips = make_film_strips(wanted, cell)
        readable = {path for (path, _), strip in self._strips.items() if not isinstance(strip, Unreadable)}
        reasons = {path: strip.reason for (path, _), strip in self._strips.items() if isinstance(strip, Unreadable)}
        self._unreadable = reasons.keys() - readable
        for path in sorted(self._unreadable):
            logger.warning("the report shows a placeholder for %s: %s", redact(path), reasons[path])
        self._numbers: dict[str, int] = {}

    @property
    def base64_pictures(self) -> list[str]:
        """All pictures as base64, in the order of their numbers."""
        return list(self._numbers)

    def matrix(self, pair: CondensedMatch) -> int:
        """Return the number of the picture of the pair's matrix."""
        return self._number(similarity_picture(pair.values))

    def link(self, side: Side, pair: CondensedMatch) -> str | None:
        """Return a link to the pair's query or reference, or None if a browser cannot open it."""
        path = self._path(side, pair)
        return None if path is None or path in self._unreadable else media_link(path, self._page)

    def film(self, pair: CondensedMatch, index: int) -> Film | None:
        """Return the data of the strips of the segment at `index`, or None if it has no strips."""
        if index >= self._max_strips:
            return None
        found = pair.segments[index]
        film = {side: self._strip(side, pair, moments) for side, moments in _moments(found).items()}
        if found.boxes is not None and "content" in film["query"]:
            film["query"]["boxes"] = _boxes(pair, found.boxes, _moments(found)["query"], film["query"]["content"])
        for strip in film.values():
            strip.pop("content", None)
        return film

    def _strip(self, side: Side, pair: CondensedMatch, moments: tuple[float, ...]) -> dict[str, Any]:
        strip: dict[str, Any] = {"seconds": moments, "times": [format_clock(moment) for moment in moments]}
        path = self._path(side, pair)
        film_strip = Unreadable("its file is not known") if path is None else self._strips[path, moments]
        if isinstance(film_strip, Unreadable):
            return strip | {"reason": film_strip.reason}
        ratio = round(film_strip.ratio, 4)
        return strip | {"picture": self._number(film_strip.base64), "ratio": ratio, "content": film_strip.content}

    def _number(self, picture: str) -> int:
        return self._numbers.setdefault(picture, len(self._numbers))

    def _path(self, side: Side, pair: CondensedMatch) -> str | None:
        return self._paths[side].get(pair.media_id(side))


def _moments(found: PaneSegment) -> dict[Side, tuple[float, ...]]:
    """Return the seconds of the strips' columns; a column shows the same moment of the copy in both videos."""
    segment = found.segment
    step = (segment.query_end - segment.query_start) / FRAMES_PER_STRIP
    query = [segment.query_start + (index + 0.5) * step for index in range(FRAMES_PER_STRIP)]
    reference = [segment.reference_at(second) for second in query]
    return {
        "query": tuple(round(second, 3) for second in query),
        "reference": tuple(round(second, 3) for second in reference),
    }


def _boxes(
    pair: CondensedMatch,
    boxes: NDArray[np.float32],
    moments: Sequence[float],
    content: tuple[float, float, float, float],
) -> list[list[float] | None]:
    """Return the pane's box in each cell of the strip, in percent: left, top, width, height.

    It is None where the pane is absent, or covers the whole picture and needs no outline.
    """
    left, top, right, bottom = content
    rows = np.clip(np.searchsorted(pair.query_starts, moments, side="right") - 1, 0, None)
    x0, y0, x1, y1 = np.clip(boxes[rows], 0, 1).T
    is_part = np.isfinite(boxes[rows]).all(axis=1) & ((x1 - x0 < NEARLY_ALL) | (y1 - y0 < NEARLY_ALL))
    places = np.stack(
        [left + x0 * (right - left), top + y0 * (bottom - top), (x1 - x0) * (right - left), (y1 - y0) * (bottom - top)]
    )
    return [
        [round(100 * float(share), 1) for share in place] if part else None
        for place, part in zip(places.T, is_part, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """Cells of equal size side by side, as base64 of one WebP picture.

    `ratio` is the width of a cell divided by its height. `content` is the box of the pictures in their cells: x0, y0,
    x1, y1 in 0..1 of a cell; the rest of a cell is dark.
    """

    ratio: float
    content: tuple[float, float, float, float]
    base64: str


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
