"""Pictures of the report of video matches: a pair of film strips per segment, and a matrix per pair."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.object_store import redact
from copytrace.report.film_strips import make_film_strips
from copytrace.report.page import SIDES, Side
from copytrace.report.pictures import Unreadable
from copytrace.report.similarity_picture import similarity_picture
from copytrace.report.time_axis import format_clock, media_link
from copytrace.report.video_matches import CondensedMatch, PaneSegment

FRAMES_PER_STRIP = 8
NEARLY_ALL = 0.98  # of the width and height of a picture

# Data of the two film strips of a segment, for the page.
Film = dict[Side, dict[str, Any]]

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
