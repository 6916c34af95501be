"""Descriptor files of the Video Similarity Challenge: an .npz with a row per frame, to exchange with other systems.

The arrays are `video_ids` (n,) text, sorted; `timestamps` (n,) or (n, 2) seconds, one time or a start and an end;
`features` (n, d) float32. Nothing in such a file is ever unpickled, since that could run code.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from copytrace.arrays import Floats, Times
from copytrace.errors import InputError
from copytrace.storage import atomic_path, local_copy

ARRAYS = ("video_ids", "timestamps", "features")
LAST_FRAME_SECONDS = 1.0  # duration of a video's last frame if only times are given, as at 1 frame per second

_RESAVE = "resave it with np.savez(file, video_ids=ids.astype(str), timestamps=times, features=vectors)"


def write_npz(path: Path, ids: Sequence[str] | NDArray[Any], times: NDArray[Any], vectors: NDArray[Any]) -> Path:
    """Write the rows sorted by id, then by time, atomically, and return `path`; the same rows give the same bytes.

    `ids` (n,) str has the video of each row; `times` real (n,) or (n, 2) its time, or its start and end, in seconds;
    `vectors` real (n, d) is written as float32. Raises `InputError` for shapes that do not fit, an empty id, an end
    before its start, and values that are not finite.
    """
    names, seconds, features = _check_arrays(
        path, np.asarray(ids, dtype=np.str_), np.asarray(times), np.asarray(vectors)
    )
    order = np.lexsort((*np.atleast_2d(seconds.T)[::-1], names))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # numpy dates every member 1980, so the bytes do not depend on the time of writing.
        np.savez(file, video_ids=names[order], timestamps=seconds[order], features=features[order])
    return path


def read_npz(path: Path) -> tuple[NDArray[np.str_], Times, Floats]:
    """Return ids (n,) str, starts and ends in seconds (n, 2) float64, and vectors (n, d) float32, in the file's order.

    If the file has one time per row, a row ends at the next later time of its video, and the last row of a video after
    `LAST_FRAME_SECONDS`. Integer ids become text. Raises `InputError` if the file is missing, not an .npz, cut short or
    pickled, and if arrays are missing or `write_npz` would refuse them.
    """
    ids, times, vectors = _load(path)
    if ids.dtype.kind not in "Uiu":
        raise InputError(f"{path}: video_ids has the type {ids.dtype}, not text; {_RESAVE}")
    names, seconds, features = _check_arrays(path, ids.astype(np.str_), times, vectors)
    if seconds.ndim == 1:
        seconds = np.stack([seconds, _ends(names, seconds)], axis=1)
    return names, seconds, features


def _load(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an .npz file with {', '.join(ARRAYS)}")
    try:
        with (
            local_copy(path) as file,
            zipfile.ZipFile(file) as members,
            np.load(file, allow_pickle=False) as arrays,
        ):
            if missing := [name for name in ARRAYS if name not in arrays.files]:
                found = ", ".join(arrays.files) or "none"
                raise InputError(f"{path} lacks the array {missing[0]}; its arrays are {found}; {_RESAVE}")
            for name in ARRAYS:
                if _is_pickled(members, name):
                    raise InputError(f"{path}: {name} holds Python objects, which can carry code; {_RESAVE}")
            return arrays["video_ids"], arrays["timestamps"], arrays["features"]
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"unreadable .npz file {path}: {error}; copy it again, or {_RESAVE}") from error


def _is_pickled(members: zipfile.ZipFile, name: str) -> bool:
    with members.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(file)
    return dtype.hasobject


def _check_arrays(
    path: Path, ids: NDArray[np.str_], times: NDArray[Any], vectors: NDArray[Any]
) -> tuple[NDArray[np.str_], Times, Floats]:
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
    features = vectors.astype(np.float32, copy=False)
    for name, values in (("time", np.atleast_2d(seconds.T)), ("vector", features.T)):
        if (row := _first(~np.isfinite(values).all(axis=0))) is not None:
            raise InputError(
                f"{path}: row {row + 1} ({ids[row]}) has a {name} that is not finite; drop or mend the row"
            )
    if seconds.ndim == 2 and (row := _first(seconds[:, 1] < seconds[:, 0])) is not None:
        start, end = seconds[row]
        raise InputError(f"{path}: row {row + 1} ({ids[row]}) ends at {end} before {start}; give start, then end")
    return ids, seconds, features


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
