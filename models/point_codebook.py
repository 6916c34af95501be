"""The codebook of local points: where their inverted lists lie, how a point is coded, and a sample of other points."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.configs import ModelFileError

FORMAT = "copytrace.point_codebook.3"


@dataclass(frozen=True, slots=True)
class PointCodebook:
    """A codebook of the canonical forms of root-SIFT points, uint8 [128].

    `axes` int8 [2, 128] choose the canonical form of a point among its mirrored and negative forms, and `margins`
    float32 [2] tell how near to 0 its projections on them are uncertain.

    `cells` float32 [A, 128] divide the space, `lists` float32 [A * B, 128] divide each cell, and `fine_lists` float32
    or, when read, uint8 [A * B * C, 128] divide each list, for large indexes: list n lies in cell n // B, fine list n
    in list n // C.

    A point is coded as its list's center plus one of 16 vectors of each of the `products`, float32 [30, 16, 128], which
    are orthogonal to those of all other products: 4 bits each. 8 bits more code the squared length of that sum, in
    steps between the two `lengths`, float32 [2]. Fine lists have `fine_products` and `fine_lengths`.

    `sample_codes` uint8 [S, 16] are points of photographs that belong to no library, coded in a single list, whose
    center is `sample_lists` float32 [1, 128]; what is as near to a query's point as the nearest of them is near by
    chance.
    """

    axes: NDArray[np.int8]
    margins: NDArray[np.float32]
    cells: NDArray[np.float32]
    lists: NDArray[np.float32]
    products: NDArray[np.float32]
    lengths: NDArray[np.float32]
    fine_lists: NDArray[np.float32] | NDArray[np.uint8]  # as bytes, since most processes do not need them
    fine_products: NDArray[np.float32]
    fine_lengths: NDArray[np.float32]
    sample_lists: NDArray[np.float32]
    sample_products: NDArray[np.float32]
    sample_lengths: NDArray[np.float32]
    sample_codes: NDArray[np.uint8]


TENSORS = tuple(field.name for field in fields(PointCodebook))
_BYTES = ("cells", "lists", "fine_lists", "sample_lists")  # centers, rounded
_HALVES = ("products", "fine_products", "sample_products")
_READ = {"axes": np.int8, "fine_lists": np.uint8, "sample_codes": np.uint8}


def write_point_codebook(path: Path, codebook: PointCodebook) -> Path:
    """Write a codebook as safetensors and return the path; centers are rounded to bytes."""
    tensors: dict[str, NDArray[np.generic]] = {name: getattr(codebook, name) for name in TENSORS}
    tensors |= {name: np.rint(tensors[name]).astype(np.uint8) for name in _BYTES}
    tensors |= {name: tensors[name].astype(np.float16) for name in _HALVES}
    path.write_bytes(save(tensors, metadata={"format": FORMAT}))
    return path


def read_point_codebook(path: Path) -> PointCodebook:
    """Read a codebook.

    Raises `FileNotFoundError` if there is no file, and `ModelFileError` if it is damaged or something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ModelFileError(f"{path} is not a codebook of points of this version")
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be read as a codebook of points: {error}") from error
    return PointCodebook(**{name: tensor.astype(_READ.get(name, np.float32)) for name, tensor in tensors.items()})
