"""Descriptor files of the Image Similarity Challenge: HDF5, to exchange with other systems.

A submission has the datasets `query` (q, d) and `reference` (r, d), float32, and `query_ids` (q,) and `reference_ids`
(r,), text, sorted. The files of one set of images that isc2021's baselines write have `vectors` and `image_names`.
Nothing outside of the file is read, whatever it links to, and vectors are read in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import InputError
from copytrace.storage import atomic_path, local_copy

Side = Literal["queries", "references"]
SUBMISSION: Mapping[Side, tuple[str, str]] = {
    "queries": ("query_ids", "query"),
    "references": ("reference_ids", "reference"),
}
ONE_SET = ("image_names", "vectors")

LARGEST_CHUNK = 1 << 28  # bytes; a chunk is decompressed whole
LONGEST_ID = 255  # characters
ROWS_AT_A_TIME = 8192

_RESAVE = "write it with h5py as 'query', 'reference' (float32), 'query_ids' and 'reference_ids' (text)"


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The descriptors of one side: `ids`, str objects (n,), and the dataset of vectors (n, d), read in blocks."""

    ids: NDArray[Any]
    vectors: Any

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """Yield the first row and the vectors float32 of each block."""
        for start in range(0, len(self.vectors), ROWS_AT_A_TIME):
            with np.errstate(over="ignore"):
                yield start, np.asarray(self.vectors[start : start + ROWS_AT_A_TIME], dtype=np.float32)


def load_h5py() -> Any:
    """Return the module h5py. Raises `InputError` if it is not installed."""
    try:
        return import_module("h5py")
    except ImportError as error:
        raise InputError("HDF5 needs a package that is missing; install it: pip install 'copytrace[hdf5]'") from error


def is_hdf5(path: Path) -> bool:
    """Return whether a file begins as HDF5 files do; h5py is not needed for this."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the datasets of an HDF5 file that this module knows, by name.

    Raises `InputError` if the file is missing, damaged or not HDF5, if h5py is not installed, or if a dataset lies
    outside of the file, has values that are neither numbers nor text, or has chunks that memory might not hold.
    """
    h5py = load_h5py()
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an HDF5 file with query, reference, query_ids and reference_ids")
    known = {*ONE_SET, *(name for names in SUBMISSION.values() for name in names)}
    try:
        with local_copy(path) as local, h5py.File(local, "r") as file:
            yield {name: _dataset(h5py, path, file, name) for name in file if name in known}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"unreadable HDF5 file {path}: {_first_line(error)}; copy it again, or {_RESAVE}") from error


def read_names(path: Path, dataset: Any) -> NDArray[Any]:
    """Return ids (n,) as str objects. Raises `InputError` if they are no text, not UTF-8, or too long."""
    if dataset.ndim != 1 or not (dataset.dtype.kind == "S" or _is_text(dataset)):
        raise InputError(
            f"{path}: {dataset.name[1:]} has {dataset.dtype} of shape {dataset.shape}, not text; {_RESAVE}"
        )
    if dataset.dtype.kind == "S" and dataset.dtype.itemsize > LONGEST_ID:
        raise InputError(f"{path}: {dataset.name[1:]} has ids of {dataset.dtype.itemsize:,} bytes; {_RESAVE}")
    names = np.empty(len(dataset), dtype=object)
    for start in range(0, len(dataset), ROWS_AT_A_TIME):
        block = dataset[start : start + ROWS_AT_A_TIME].tolist()
        for row, value in enumerate(block, start):
            try:
                names[row] = value.decode() if isinstance(value, bytes) else str(value)
            except UnicodeDecodeError:
                raise InputError(f"{path}: row {row + 1} of {dataset.name[1:]} is not UTF-8; {_RESAVE}") from None
            if len(names[row]) > LONGEST_ID:
                raise InputError(f"{path}: row {row + 1} of {dataset.name[1:]} is too long for an id; {_RESAVE}")
    return names


@contextmanager
def open_image_descriptors(path: Path, side: Side) -> Iterator[StoredVectors]:
    """Yield the descriptors of one side of a submission, or of a file with one set of images, checked.

    Folders and suffixes of `image_names` are left out, as in isc2021. Raises `InputError` as `open_hdf5` does, if the
    datasets are missing or do not fit, and if an id is empty or repeated or a vector is not finite.
    """
    with open_hdf5(path) as datasets:
        names = next((pair for pair in (SUBMISSION[side], ONE_SET) if all(name in datasets for name in pair)), None)
        if names is None:
            wanted = f"{' and '.join(SUBMISSION[side])}, or {' and '.join(ONE_SET)}"
            raise InputError(f"{path} lacks {wanted}; its datasets are {', '.join(datasets) or 'others'}; {_RESAVE}")
        ids, vectors = read_names(path, datasets[names[0]]), datasets[names[1]]
        if names == ONE_SET:
            ids = np.array([_strip(name) for name in ids], dtype=object)
        stored = StoredVectors(ids, vectors)
        _check(path, names, stored)
        yield stored


def _check(path: Path, names: tuple[str, str], stored: StoredVectors) -> None:
    ids, vectors = stored.ids, stored.vectors
    if vectors.ndim != 2 or len(vectors) != len(ids) or 0 in vectors.shape or vectors.dtype.kind != "f":
        raise InputError(
            f"{path}: {names[0]} {ids.shape} and {names[1]} {vectors.shape} of {vectors.dtype} do not fit; {_RESAVE}"
        )
    seen: dict[str, int] = {}
    for row, name in enumerate(ids, 1):
        if not name:
            raise InputError(f"{path}: row {row} of {names[0]} is empty; give every row the id of its image")
        if (first := seen.setdefault(name, row)) != row:
            raise InputError(f"{path}: rows {first} and {row} have the same id {name!r}; keep one row per image")
    for start, block in stored.blocks():
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            row = start + int(bad[0])
            raise InputError(
                f"{path}: row {row + 1} ({ids[row]}) has a vector that is not finite; drop or mend the row"
            )


def write_hdf5(path: Path, sides: Mapping[Side, tuple[NDArray[Any], NDArray[Any]]]) -> Path:
    """Write ids (n,) and vectors (n, d) of queries and references as a submission, or of one side as one set.

    Vectors, which may be a memory map, are written in blocks as float32; rows are written in the order given. The same
    rows give the same bytes with the same version of h5py. Raises `InputError` if h5py is not installed.
    """
    h5py = load_h5py()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for side, (ids, vectors) in sides.items():
            names, rows = SUBMISSION[side] if len(sides) == 2 else ONE_SET
            encoded = [str(name).encode() for name in ids]
            stored = file.create_dataset(rows, vectors.shape, np.float32)
            for start in range(0, len(vectors), ROWS_AT_A_TIME):
                stored[start : start + ROWS_AT_A_TIME] = vectors[start : start + ROWS_AT_A_TIME]
            file.create_dataset(names, data=np.array(encoded or [], dtype=f"S{max(map(len, encoded), default=1)}"))
    return path


def _dataset(h5py: Any, path: Path, file: Any, name: str) -> Any:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: {name} is a link, which may lead out of the file; {_RESAVE}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{path}: {name} is a group, not a dataset; {_RESAVE}")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: {name} lies in another file; {_RESAVE}")
    if dataset.dtype.kind not in "fiuSO" or (dataset.dtype.kind == "O" and not _is_text(dataset)):
        raise InputError(f"{path}: {name} has the type {dataset.dtype}; {_RESAVE}")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > LARGEST_CHUNK:
        raise InputError(
            f"{path}: {name} has chunks of more than {LARGEST_CHUNK >> 20} MiB; write it with smaller ones"
        )
    return dataset


def _is_text(dataset: Any) -> bool:
    return load_h5py().check_string_dtype(dataset.dtype) is not None


def _strip(name: str) -> str:
    last = PurePosixPath(name).name
    return last[:-4] if last.endswith((".jpg", ".png")) else last


def _first_line(error: BaseException) -> str:
    return (str(error).strip("'\" ").splitlines() or [type(error).__name__])[0]
