"""Check of descriptors for the Image Similarity Challenge 2021: one HDF5 file with queries and references.

A file is valid if `eval_metrics.py` of DrivenData can read and search it, and if it is as `convert_track2_format.py`
and `compute_metrics.py` of isc2021 say: float32, sorted ids, at most 256 numbers. Beyond them, repeated ids, ids that
are not of the challenge, numbers that are not finite, and datasets outside of the file are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.exchange.hdf5_files import SUBMISSION, Side, StoredVectors, load_h5py, open_hdf5, read_names
from copytrace.submissions.disc21_tables import QUERY_ID, REFERENCE_ID
from copytrace.submissions.faults import CheckedFile, Faults
from copytrace.submissions.media_lists import MediaList

DIMENSIONS = 256
_IDS: dict[Side, tuple[re.Pattern[str], str]] = {
    "queries": (QUERY_ID, "Q00000 to Q99999"),
    "references": (REFERENCE_ID, "R000000 to R999999"),
}


def check_image_descriptors(
    path: Path, queries: MediaList | None = None, references: MediaList | None = None
) -> CheckedFile:
    """Return what is wrong with a file of descriptors; with lists, every image of them must have one.

    Raises `InputError` if there is no such file, or h5py is not installed.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an HDF5 file with query, reference, query_ids and reference_ids")
    load_h5py()  # a package that is missing is no fault of the file
    faults, counts = Faults(), {"queries": 0, "references": 0}
    lists: dict[Side, MediaList | None] = {"queries": queries, "references": references}
    try:
        with open_hdf5(path) as datasets:
            lengths = {side: _check_side(path, datasets, side, lists[side], faults, counts) for side in SUBMISSION}
    except InputError as error:
        what, _, cure = str(error).removeprefix(f"{path}: ").partition("; ")
        faults.add(what, cure)
    else:
        if None not in lengths.values() and len(set(lengths.values())) > 1:
            both = " and ".join(f"{side} of {length}" for side, length in lengths.items())
            faults.add(f"it has {both} numbers", "describe both with the same model")
    unchecked = tuple(f"whether all {side} are there (give --{side})" for side, given in lists.items() if given is None)
    return CheckedFile(path, "descriptors of DISC21", counts, faults.found, unchecked)


def _check_side(
    path: Path, datasets: dict[str, Any], side: Side, given: MediaList | None, faults: Faults, counts: dict[str, int]
) -> int | None:
    """Note the faults of one side, and return the length of its vectors, or None if they are no matrix."""
    names, rows = SUBMISSION[side]
    if missing := [name for name in (names, rows) if name not in datasets]:
        faults.add(f"it lacks the dataset {missing[0]}", "write query, reference, query_ids and reference_ids")
        return None
    vectors = datasets[rows]
    if vectors.ndim != 2 or 0 in vectors.shape:
        faults.add(f"{rows} has the shape {vectors.shape}", f"give (n, d), with d at most {DIMENSIONS}")
        return None
    counts[side] = len(vectors)
    if vectors.dtype.newbyteorder("=") != np.float32:
        faults.add(f"{rows} has the type {vectors.dtype}", "write it as float32")
    if vectors.shape[1] > DIMENSIONS:
        faults.add(f"a descriptor in {rows} has {vectors.shape[1]:,} numbers", f"give at most {DIMENSIONS}")
    ids = read_names(path, datasets[names])
    if len(ids) != len(vectors):
        faults.add(f"{names} has {len(ids):,} rows and {rows} {len(vectors):,}", "give an id for each descriptor")
    _check_ids(ids, names, side, given, faults)
    for start, block in StoredVectors(ids, vectors).blocks() if not faults else ():
        bad = ~np.isfinite(block).all(axis=1)
        faults.add_rows(bad, f"a descriptor in {rows} is not finite", "drop or mend it", before=start)
    return int(vectors.shape[1])


def _check_ids(ids: NDArray[Any], name: str, side: Side, given: MediaList | None, faults: Faults) -> None:
    form, range_of_ids = _IDS[side]
    other = np.fromiter((not form.fullmatch(text) for text in ids), np.bool_, len(ids))
    faults.add_rows(other, f"an id in {name} is not one of the challenge", f"give {range_of_ids}", values=ids)
    unsorted = np.zeros(len(ids), np.bool_)
    unsorted[1:] = ids[1:] < ids[:-1]
    faults.add_rows(unsorted, f"an id in {name} comes before the one above it", "sort both arrays by id", values=ids)
    first = np.unique(ids.astype(np.str_), return_index=True)[1]
    repeated = np.ones(len(ids), np.bool_)
    repeated[first] = False
    faults.add_rows(repeated, f"an id in {name} occurs again", "keep one row per image", values=ids)
    if given:
        unknown = given.lacks(ids) & ~other
        faults.add_rows(unknown, f"an id in {name} is not in {given.source}", "drop its row", values=ids)
        if missing := sorted(given.ids - set(ids.tolist())):
            faults.add(f"{len(missing):,} {side} are missing, such as {missing[0]}", f"describe all of {given.source}")
