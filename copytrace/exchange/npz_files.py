"""Descriptor files of the Video Similarity Challenge: an .npz with a row per frame, to exchange with other systems.

The arrays are `video_ids` (n,) text, sorted; `timestamps` (n,) or (n, 2) seconds, one time or a start and an end;
`features` (n, d) float32. Nothing in such a file is ever unpickled, since that could run code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from copytrace.arrays import Floats, Times
from copytrace.errors import InputError
from copytrace.npz_members import list_npz, open_npz
from copytrace.storage import atomic_path

ARRAYS = ("video_ids", "timestamps", "features")
LONGEST_ID = 255  # characters
ROWS_AT_A_TIME = 8192  # of vectors that are in memory
LAST_FRAME_SECONDS = 1.0  # duration of a video's last frame if only times are given, as at 1 frame per second

RESAVE = "resave it with np.savez(file, video_ids=ids.astype(str), timestamps=times, features=vectors)"


def write_npz(path: Path, ids: Sequence[str] | NDArray[Any], times: NDArray[Any], vectors: NDArray[Any]) -> Path:
    """Write the rows sorted by id, then by time, atomically, and return `path`; the same rows give the same bytes.

    `ids` (n,) str has the video of each row; `times` real (n,) or (n, 2) its time, or its start and end, in seconds;
    `vectors` real (n, d) is written as float32. Raises `InputError` for shapes that do not fit, an empty id, an end
    before its start, and values that are not finite.
    """
    names, features = np.asarray(ids, dtype=np.str_), np.asarray(vectors)
    seconds = _check_arrays(path, names, np.asarray(times), features)
    order = np.lexsort((*np.atleast_2d(seconds.T)[::-1], names))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # numpy dates every member 1980, so the bytes do not depend on the time of writing.
        np.savez(file, video_ids=names[order], timestamps=seconds[order], features=features[order].astype(np.float32))
    return path


def read_npz(path: Path) -> tuple[NDArray[np.str_], Times, Floats]:
    """Return ids (n,) str, starts and ends in seconds (n, 2) float64, and vectors (n, d) float32, in the file's order.

    Raises the errors of `open_frames`.
    """
    with open_frames(path) as (names, seconds, vectors):
        return names, seconds, np.array(vectors, dtype=np.float32)


@contextmanager
def open_frames(path: Path) -> Iterator[tuple[NDArray[np.str_], Times, NDArray[np.floating[Any]]]]:
    """Yield what `read_npz` returns, but leave the vectors on disk, in the file's type.

    If the file has one time per row, a row ends at the next later time of its video, and the last row of a video after
    `LAST_FRAME_SECONDS`. Integer ids become text. Raises `InputError` if the file is missing, not an .npz, cut short or
    pickled, and if arrays are missing or `write_npz` would refuse them.
    """
    with open_descriptors(path) as (ids, times, vectors):
        if ids.dtype.kind not in "Uiu":
            raise InputError(f"{path}: video_ids has the type {ids.dtype}, not text; {RESAVE}")
        if ids.dtype.kind == "U" and ids.dtype.itemsize > LONGEST_ID * 4:
            raise InputError(f"{path}: video_ids may have {ids.dtype.itemsize // 4:,} characters; {RESAVE}")
        names = ids.astype(np.str_)
        seconds = _check_arrays(path, names, times, vectors)
        if seconds.ndim == 1:
            seconds = np.stack([seconds, _ends(names, seconds)], axis=1)
        yield names, seconds, vectors


@contextmanager
def open_descriptors(path: Path) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield ids, times and vectors as the file has them, unchecked and on disk.

    Raises `InputError` as `open_npz` does, and if an array is missing.
    """
    with open_npz(path, ARRAYS, RESAVE) as arrays:
        if missing := [name for name in ARRAYS if name not in arrays]:
            found = ", ".join(list_npz(path)) or "none"
            raise InputError(f"{path} lacks the array {missing[0]}; its arrays are {found}; {RESAVE}")
        yield arrays["video_ids"], arrays["timestamps"], arrays["features"]


def first_not_finite(vectors: NDArray[Any], largest: float = np.inf) -> int | None:
    """Return the first row of vectors (n, d) that is not finite as float32, or None; rows are read in blocks.

    Numbers of more than `largest` count as not finite, too.
    """
    for start in range(0, len(vectors), ROWS_AT_A_TIME):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found
            block = np.asarray(vectors[start : start + ROWS_AT_A_TIME], dtype=np.float32)
        if (row := _first(~(np.isfinite(block) & (np.abs(block) <= largest)).all(axis=1))) is not None:
            return start + row
    return None


def _check_arrays(path: Path, ids: NDArray[np.str_], times: NDArray[Any], vectors: NDArray[Any]) -> Times:
    """Return the times as float64."""
    rows = len(vectors) if vectors.ndim == 2 else -1
    if ids.shape != (rows,) or times.shape not in {(rows,), (rows, 2)} or vectors.shape[1] == 0:
        shapes = f"ids {ids.shape}, times {times.shape}, vectors {vectors.shape}"
        raise InputError(f"{path}: {shapes} do not fit; give (n,), (n,) or (n, 2), and (n, d), a row per frame")
    if times.dtype.kind not in "fiu" or vectors.dtype.kind != "f":
        types = f"times {times.dtype}, vectors {vectors.dtype}"
        raise InputError(f"{path}: {types} are not usable; give seconds as numbers and vectors as float32")
    if (row := _first(np.char.str_len(ids) == 0)) is not None:
        raise InputError(f"{path}: row {row + 1} has no video id; give every row the id of its video")
    seconds = times.astype(np.float64)
    bad = {"time": _first(~np.isfinite(np.atleast_2d(seconds.T)).all(axis=0)), "vector": first_not_finite(vectors)}
    for name, row in bad.items():
        if row is not None:
            raise InputError(
                f"{path}: row {row + 1} ({ids[row]}) has a {name} that is not finite; drop or mend the row"
            )
    if seconds.ndim == 2 and (row := _first(seconds[:, 1] < seconds[:, 0])) is not None:
        start, end = seconds[row]
        raise InputError(f"{path}: row {row + 1} ({ids[row]}) ends at {end} before {start}; give start, then end")
    return seconds


def _ends(ids: NDArray[np.str_], starts: Times) -> Times:
    """Return the next later start in the same video of each row, whatever the order of the rows."""
    _, videos = np.unique(ids, return_inverse=True)
    frames, frame_of_row = np.unique(np.stack([videos, starts], axis=1), axis=0, return_inverse=True)
    ends = frames[:, 1] + LAST_FRAME_SECONDS
    follows = frames[1:, 0] == frames[:-1, 0]
    ends[:-1][follows] = frames[1:, 1][follows]
    return ends[frame_of_row]


def _first(chosen: ArrayLike) -> int | None:
    rows = np.flatnonzero(chosen)
    return int(rows[0]) if rows.size else None
