"""Lists of the media of a challenge: metadata of videos, or ids of images, one a line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from configs.bounded_files import bounded_lines
from copytrace.errors import InputError
from copytrace.metrics.tables import read_ids, read_numbers, read_table


@dataclass(frozen=True, slots=True)
class MediaList:
    """The ids of one side of a challenge; `seconds` has the duration of each, or is empty if the list has none."""

    source: str
    ids: frozenset[str]
    seconds: Mapping[str, float]

    @property
    def budget(self) -> int:
        """Number of descriptors that the videos may have together: one for each second that has begun."""
        return sum(math.ceil(seconds) for seconds in self.seconds.values())

    def lacks(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Return which ids (n,) the list does not have."""
        names = np.asarray(ids, dtype=object)
        return np.fromiter((name not in self.ids for name in names), np.bool_, len(names))

    def ends(self, ids: ArrayLike) -> NDArray[np.float64]:
        """Return the durations (n,) of media in seconds, infinite where they are not known."""
        names = np.asarray(ids, dtype=object)
        return np.fromiter((self.seconds.get(name, np.inf) for name in names), np.float64, len(names))


def read_media_list(path: Path, subset: Path | None = None) -> MediaList:
    """Read `video_id,duration_sec` (CSV or Parquet, with other columns), or a text file with an id in each line.

    `subset` names a file of the same kinds, of which only the ids are used. Raises `InputError` if a file is missing or
    unreadable, an id is empty or occurs twice, a duration is negative or not finite, or the subset has other ids.
    """
    chosen = _read(path)
    if subset is None:
        return chosen
    wanted = _read(subset)
    if others := sorted(wanted.ids - chosen.ids):
        raise InputError(f"{subset}: {others[0]} is not in {path}; give a subset of the same media")
    seconds = {name: value for name, value in chosen.seconds.items() if name in wanted.ids}
    return MediaList(f"{path}, as in {subset}", wanted.ids, seconds)


def _read(path: Path) -> MediaList:
    if not path.is_file():
        raise InputError(
            f"no such file: {path}; give a CSV with video_id,duration_sec, or a file with an id in each line"
        )
    names, seconds = _read_table(path) if _has_header(path) else (_read_lines(path), {})
    if not names:
        raise InputError(f"{path} lists no media; give a list with at least one id")
    ids = frozenset(names)
    if len(ids) < len(names):
        twice = next(name for row, name in enumerate(names) if name in names[:row])
        raise InputError(f"{path}: {twice} occurs more than once; list each medium once")
    return MediaList(str(path), ids, seconds)


def _has_header(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096)
    return start.startswith(b"PAR1") or b"video_id" in start.split(b"\n", 1)[0]


def _read_table(path: Path) -> tuple[list[str], dict[str, float]]:
    table = read_table(path, ("video_id",), optional=("duration_sec",))
    names = read_ids(path, table, "video_id").tolist()
    if "duration_sec" not in table.column_names:
        return names, {}
    seconds = read_numbers(path, table, "duration_sec", "give seconds")
    bad = np.flatnonzero(~(np.isfinite(seconds) & (seconds >= 0)))
    if bad.size:
        raise InputError(f"{path}: row {bad[0] + 1} has the duration {seconds[bad[0]]}; give seconds from 0 on")
    return names, dict(zip(names, seconds.tolist(), strict=True))


def _read_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [line for part in bounded_lines(file) for line in part.splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is no list of ids: {error}; give a text file with an id in each line") from error
    return [line.strip() for line in lines if line.strip()]
