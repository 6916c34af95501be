"""Export of the descriptors of indexes of images as an HDF5 file of the Image Similarity Challenge."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.errors import InputError
from copytrace.exchange.hdf5_files import Side, load_h5py, write_hdf5
from copytrace.index.image_index import ImageIndex
from copytrace.panes.names import WHOLE


def export_hdf5(indexes: Mapping[Side, ImageIndex], path: Path) -> dict[Side, int]:
    """Write the descriptors of whole images, sorted by id, and return the number of rows of each side.

    Both sides make a submission of the challenge; one makes a file with `vectors` and `image_names`. The vectors are
    gathered in temporary files, not in memory. Raises `InputError` if an index holds no images, if two indexes were
    described by different models, or if h5py is not installed.
    """
    load_h5py()
    models = {side: index.provenance["descriptor"] for side, index in indexes.items()}
    if len(set(models.values())) > 1:
        both = " and ".join(f"{side} by {model}" for side, model in models.items())
        raise InputError(f"the indexes were described by different models: {both}; index one of them again")
    with tempfile.TemporaryDirectory(prefix="copytrace-hdf5-") as folder:
        sides = {side: _gather(index, Path(folder) / side) for side, index in indexes.items()}
        write_hdf5(path, sides)
        return {side: len(ids) for side, (ids, _) in sides.items()}


def _gather(index: ImageIndex, file: Path) -> tuple[NDArray[Any], Floats]:
    """Return the sorted ids (n,) and the vectors float32 (n, d) of an index; the vectors lie in `file`."""
    ids = np.array(sorted(index.paths), dtype=object)
    places = {name: place for place, name in enumerate(ids)}
    vectors: Floats | None = None
    for shard in index.shards:
        described = index.descriptors(shard)
        rows = [row for row, pane in enumerate(described.panes) if pane == WHOLE]
        if vectors is None:
            vectors = _map_new(file, (len(ids), described.vectors.shape[1]))
        vectors[[places[described.ids[row]] for row in rows]] = described.vectors[rows]
    if vectors is None:
        raise InputError(f"{index.root} holds no images; index some first")
    return ids, vectors


def _map_new(file: Path, shape: tuple[int, int]) -> Floats:
    """Return zeros float32 in a new file that is mapped into memory. Raises `OSError` if the disk has too little room.

    A disk that fills up when what is mapped is written would kill the process.
    """
    with file.open("wb") as created:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(created.fileno(), 0, math.prod(shape) * np.dtype(np.float32).itemsize)
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(file.parent)) from error
    return np.memmap(file, np.float32, "r+" if file.stat().st_size else "w+", shape=shape)
