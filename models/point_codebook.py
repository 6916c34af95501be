"""The codebook of local points: where their inverted lists lie, how a point is coded, and a sample of other points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.configs import ModelFileError

FORMAT = "copytrace.point_codebook.2"
TENSORS = ("cells", "lists", "products", "fine_lists", "fine_products", "sample_lists", "sample_codes")


@dataclass(frozen=True, slots=True)
class PointCodebook:
    """A codebook of root-SIFT points, uint8 [128].

    `cells` float32 [A, 128] divide the space, and `lists` float32 [A * B, 128] divide each cell: list n lies in cell
    n // B. A point is coded by its list and by the nearest of 16 `products`, float32 [32, 16, 4], to each four numbers
    of its difference from the center of its list: 4 bits each, two to a byte.

    `fine_lists` float32 [A * B * C, 128] divide each list further, for large indexes: fine list n lies in list n // C.
    `fine_products` code differences from their centers.

    `sample_lists` int64 [S] and `sample_codes` uint8 [S, 16] are points of photographs that belong to no library. What
    is as near to a query's point as the nearest of these is near by chance.
    """

    cells: NDArray[np.float32]
    lists: NDArray[np.float32]
    products: NDArray[np.float32]
    fine_lists: NDArray[np.float32]
    fine_products: NDArray[np.float32]
    sample_lists: NDArray[np.int64]
    sample_codes: NDArray[np.uint8]


def write_point_codebook(path: Path, codebook: PointCodebook) -> Path:
    """Write a codebook as safetensors and return the path; centers are rounded to bytes."""
    tensors: dict[str, NDArray[np.generic]] = {
        "cells": np.rint(codebook.cells).astype(np.uint8),
        "lists": np.rint(codebook.lists).astype(np.uint8),
        "products": codebook.products.astype(np.float16),
        "fine_lists": np.rint(codebook.fine_lists).astype(np.uint8),
        "fine_products": codebook.fine_products.astype(np.float16),
        "sample_lists": codebook.sample_lists.astype(np.uint16),
        "sample_codes": codebook.sample_codes,
    }
    path.write_bytes(save(tensors, metadata={"format": FORMAT}))
    return path


def read_point_codebook(path: Path) -> PointCodebook:
    """Read a codebook. Raises `ModelFileError` if the file is damaged or something else."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ModelFileError(f"{path} is not a codebook of points; install copytrace again")
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}; install copytrace again") from error
    types = {"sample_lists": np.int64, "sample_codes": np.uint8}
    return PointCodebook(**{name: tensor.astype(types.get(name, np.float32)) for name, tensor in tensors.items()})
