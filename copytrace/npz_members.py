"""Arrays in .npz files of strangers: nothing is unpickled, sizes are checked first, and values stay on disk."""

from __future__ import annotations

import math
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.storage import local_copy

Arrays = dict[str, NDArray[Any]]

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ValueError, EOFError),
    *(NotImplementedError, SyntaxError, tokenize.TokenError, OverflowError),
)
"""What zipfile and numpy raise for files that are no .npz, damaged, encrypted, or of an unknown compression."""


@contextmanager
def open_npz(path: Path, names: Sequence[str], cure: str) -> Iterator[Arrays]:
    """Yield the arrays of these names that the file has, read-only, as memory maps of a temporary copy.

    `cure` ends the error messages. Raises `InputError` if the file is missing, not an .npz or damaged, if an array is
    pickled, or if it is larger than the file says.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}; give an .npz file with {', '.join(names)}")
    with tempfile.TemporaryDirectory(prefix="copytrace-npz-") as folder:
        try:
            with local_copy(path) as file, zipfile.ZipFile(file) as members:
                _check_magic(file)
                found = set(members.namelist())
                arrays = {
                    name: _extract(path, members, name, Path(folder), cure) for name in names if f"{name}.npy" in found
                }
        except UNREADABLE as error:
            raise InputError(f"unreadable .npz file {path}: {error}; copy it again, or {cure}") from error
        yield arrays


def list_npz(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file. Raises the errors in `UNREADABLE`."""
    with local_copy(path) as file, zipfile.ZipFile(file) as members:
        return [name.removesuffix(".npy") for name in members.namelist()]


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # zipfile looks for the end of an archive, numpy for its beginning
            raise zipfile.BadZipFile("it does not begin as a zip archive")


def _extract(path: Path, members: zipfile.ZipFile, name: str, folder: Path, cure: str) -> NDArray[Any]:
    copy = folder / f"{len(list(folder.iterdir()))}.npy"
    with members.open(f"{name}.npy") as source:
        dtype, size = _read_header(source)
        if dtype.hasobject:
            raise InputError(f"{path}: {name} holds Python objects, which can carry code; {cure}")
    held = members.getinfo(f"{name}.npy").file_size
    if size != held:
        raise ValueError(f"{name} should have {size:,} bytes and has {held:,}")
    if (free := shutil.disk_usage(folder).free) < size:
        raise ValueError(f"{name} has {size:,} bytes, and {folder.parent} has room for {free:,}; set TMPDIR")
    with members.open(f"{name}.npy") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    try:
        array: NDArray[Any] = np.load(copy, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an array without values cannot be mapped
        array = np.load(copy, allow_pickle=False)
    return array


def _read_header(file: IO[bytes]) -> tuple[np.dtype[Any], int]:
    """Return the type of an array, and the bytes that it has with its header. Raises `ValueError` for a damaged one."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read_header(file)
    except TypeError as error:  # of keys that are no texts, which numpy sorts before it looks at them
        raise ValueError("its header is damaged") from error
    return dtype, file.tell() + math.prod(shape) * dtype.itemsize
