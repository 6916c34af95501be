"""Check of descriptors for the Video Similarity Challenge 2022: an .npz file of queries, or of references.

A file is valid if the validator of the challenge's runtime accepts it (`validation.py` of meta-vsc-descriptor-runtime)
and `vsc/storage.py` of vsc2022 can read it. Beyond them, numbers that are not finite, rows that end before they start,
times that are text, and ids that are not in the metadata are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.exchange.npz_files import ARRAYS, RESAVE, first_not_finite
from copytrace.npz_members import open_npz
from copytrace.submissions.faults import CheckedFile, Faults
from copytrace.submissions.media_lists import MediaList

DIMENSIONS = 512
LARGEST = 1e17  # 512 products of such numbers are less than the largest float32

Side = Literal["queries", "references"]
LETTERS: dict[Side, str] = {"queries": "Q", "references": "R"}


@dataclass(frozen=True, slots=True)
class CheckedDescriptors:
    """A checked file, the side that it holds, and the length of its vectors, or None if they are no matrix."""

    file: CheckedFile
    side: Side
    length: int | None


def check_video_descriptors(
    path: Path, side: Side = "queries", queries: MediaList | None = None, references: MediaList | None = None
) -> CheckedDescriptors:
    """Return what is wrong with a file of descriptors.

    Its first id tells which side it holds, or else `side`. The metadata of its videos decide how many rows it may have.
    Raises `InputError` if there is no such file.
    """
    faults, counts = Faults(), {"rows": 0, "videos": 0}
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an .npz file with {', '.join(ARRAYS)}")
    length = None
    try:
        with open_npz(path, ARRAYS, RESAVE) as arrays:
            for name in ARRAYS:
                if name not in arrays:
                    faults.add(f"it lacks the array {name}", RESAVE)
            side = _side_of(arrays.get("video_ids")) or side
            given = queries if side == "queries" else references
            if not faults:
                counts, length = _check_arrays(arrays, side, given, faults)
    except InputError as error:
        what, _, cure = str(error).removeprefix(f"{path}: ").partition("; ")
        faults.add(what, cure)
    given = queries if side == "queries" else references
    lacks = given is None or not given.seconds
    unchecked = (f"the number of rows, one per second of video (give --{side} METADATA)",) if lacks else ()
    checked = CheckedFile(path, f"descriptors of the {side} of VSC22", counts, faults.found, unchecked)
    return CheckedDescriptors(checked, side, length)


def _side_of(ids: NDArray[Any] | None) -> Side | None:
    if ids is None or ids.ndim != 1 or not len(ids) or ids.dtype.kind != "U":
        return None
    return next((side for side, letter in LETTERS.items() if str(ids[0]).startswith(letter)), None)


def _check_arrays(
    arrays: Mapping[str, NDArray[Any]], side: Side, given: MediaList | None, faults: Faults
) -> tuple[dict[str, int], int | None]:
    ids, times, vectors = (arrays[name] for name in ARRAYS)
    lengths = [len(array) if array.ndim else -1 for array in (ids, times, vectors)]
    counts = {"rows": lengths[2], "videos": 0}
    if given and given.seconds and lengths[2] > given.budget:
        faults.add(
            f"it has {lengths[2]:,} rows for {given.budget:,} seconds of video",
            "give at most one per second of all videos",
        )
    if len(set(lengths)) > 1 or ids.ndim != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(ARRAYS, (ids, times, vectors), strict=True))
        faults.add(f"the arrays do not fit: {shapes}", "give (n,), (n,) or (n, 2), and (n, d)")
    elif lengths[0] == 0:
        faults.add("it has no rows", "give at least one descriptor")
    else:
        counts["videos"] = _check_ids(ids, side, given, faults)
        _check_times(times, ids, faults)
    return counts, _check_vectors(vectors, faults)


def _check_ids(ids: NDArray[Any], side: Side, given: MediaList | None, faults: Faults) -> int:
    """Note the faults of ids (n,), and return the number of videos."""
    if ids.dtype.kind not in "Uiu":
        faults.add(f"video_ids has the type {ids.dtype}, which the scorer refuses", RESAVE)
        return 0
    unsorted = np.zeros(len(ids), np.bool_)
    unsorted[1:] = ids[1:] < ids[:-1]
    faults.add_rows(
        unsorted, "a video_id comes before the one above it", "sort all three arrays by video_ids", values=ids
    )
    letter = LETTERS[side]
    names = (
        ids.astype(object) if ids.dtype.kind == "U" else np.array([f"{letter}{number:06}" for number in ids], object)
    )
    other = np.fromiter((not name.startswith(letter) for name in names), np.bool_, len(names))
    cure = f"write the ids of {side} as {letter}200001"
    faults.add_rows(other, f"a video_id does not begin with {letter}", cure, values=names)
    if given:
        unknown = given.lacks(names) & ~other
        faults.add_rows(unknown, f"a video_id is not in {given.source}", "drop its rows", values=names)
    return len(set(names.tolist()))


def _check_times(times: NDArray[Any], ids: NDArray[Any], faults: Faults) -> None:
    if times.shape[1:] not in {(), (2,)}:
        faults.add(f"timestamps have the shape {times.shape}", "give (n,), or (n, 2) for starts and ends")
    elif times.dtype.kind not in "fiu":
        faults.add(f"timestamps have the type {times.dtype}", "give seconds as numbers")
    else:
        finite = np.isfinite(times.reshape(len(times), -1)).all(axis=1)
        faults.add_rows(~finite, "a timestamp is not finite", "give seconds", values=ids)
        if times.ndim == 2:
            faults.add_rows(
                times[:, 1] < times[:, 0], "a row ends before it starts", "give start, then end", values=ids
            )


def _check_vectors(vectors: NDArray[Any], faults: Faults) -> int | None:
    """Note the faults of vectors, and return their length, or None if they are no matrix."""
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        faults.add(f"features have the shape {vectors.shape}", f"give (n, d), with d at most {DIMENSIONS}")
        return None
    if vectors.dtype != np.float32:
        faults.add(f"features have the type {vectors.dtype.str}", "write them by features.astype(numpy.float32)")
    if vectors.shape[1] > DIMENSIONS:
        faults.add(f"a descriptor has {vectors.shape[1]:,} numbers", f"give at most {DIMENSIONS}")
    if not faults and vectors.dtype.kind == "f" and (row := first_not_finite(vectors, LARGEST)) is not None:
        what = f"a descriptor has numbers that are not finite, or greater than {LARGEST:g}"
        faults.add(what, "drop or mend its row", row=row + 1)
    return int(vectors.shape[1])
