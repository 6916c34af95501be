"""Presentation of seconds: clock times, ticks and places on a timeline, and links to media files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fsspec.core import url_to_fs

from copytrace.object_store import as_stored_path, redact
from copytrace.storage import is_uri

TICK_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """An axis of seconds from `start` to `end`, drawn from left to right or from top to bottom."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds from start to end, above 0."""
        return self.end - self.start

    def place(self, second: float) -> float:
        """Return the place of `second` in percent of the axis, 0 to 100."""
        share = (second - self.start) / self.length
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ticks(self, at_most: int) -> list[tuple[float, str]]:
        """Return (place in percent, label) of round seconds, about `at_most`; more if the axis exceeds half a day."""
        step = next((step for step in TICK_STEPS if self.length / step < at_most), TICK_STEPS[-1])
        first = -int(-self.start // step)
        seconds = [index * step for index in range(first, int(self.end / step + 1e-9) + 1)]
        return [(self.place(second), format_clock(second, decimals=1 if step < 1 else 0)) for second in seconds]


def format_clock(seconds: float, *, decimals: int = 1) -> str:
    """Return `seconds` as `00:12.3`, or as `1:00:12.3` from an hour on."""
    units = round(max(seconds, 0.0) * 10**decimals)
    whole, fraction = divmod(units, 10**decimals)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
    return f"{text}.{fraction:0{decimals}}" if decimals else text


def assign_lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return for each (start, end) the lowest lane in which it overlaps no other."""
    taken: list[float] = []
    chosen = [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: (spans[index], index)):
        start, end = spans[index]
        lane = next((lane for lane, until in enumerate(taken) if until <= start), len(taken))
        taken[lane : lane + 1] = [end]
        chosen[index] = lane
    return chosen


def media_link(path: str, page: Path) -> str | None:
    """Return a link from `page` to the media file at `path`, or None if a browser cannot open it.

    Links to local files are relative to the page, so that a folder with both can be moved and shared. User names,
    passwords and signatures are removed from web addresses, since a page may be passed on.
    """
    if path.startswith(("http://", "https://")):
        return redact(path)
    if path.startswith("file://"):
        path = url_to_fs(path)[1]
    if is_uri(path):
        return None
    if as_stored_path(page):
        return None  # a page in a store is opened as a download or on the web, away from local files
    file, folder = Path(path).absolute(), page.absolute().parent
    if file.drive != folder.drive:
        return file.as_uri()
    return quote(Path(os.path.relpath(file, folder)).as_posix())
