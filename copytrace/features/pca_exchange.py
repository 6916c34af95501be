"""Principal components that scikit-learn fitted, from arrays; a pickle of its `PCA` is a program, and is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Doubles
from copytrace.errors import InputError
from copytrace.features.ensemble import Projection
from copytrace.npz_members import open_npz

ARRAYS = ("mean_", "components_", "explained_variance_", "whiten")
CURE = (
    "write it where scikit-learn is, with: numpy.savez(FILE, mean_=pca.mean_, components_=pca.components_, "
    "explained_variance_=pca.explained_variance_, whiten=pca.whiten)"
)


def read_sklearn_pca(path: Path) -> Projection:
    """Return the projection of a scikit-learn `PCA` from an .npz file of its arrays.

    `mean_` [D] and `components_` [d, D] are needed; `explained_variance_` [d] too if `whiten` is true. Raises
    `InputError` for any other file, which says how to write one.
    """
    with open_npz(path, ARRAYS, CURE) as arrays:
        for name in ("mean_", "components_"):
            if name not in arrays:
                raise InputError(f"{path} lacks the array {name}; {CURE}")
        if odd := [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]:
            raise InputError(f"{path}: {odd[0]} holds {arrays[odd[0]].dtype}, no numbers; {CURE}")
        mean, components = arrays["mean_"].astype(np.float64), arrays["components_"].astype(np.float64)
        if "whiten" in arrays and arrays["whiten"].any():
            components = _whiten(path, components, arrays.get("explained_variance_"))
    if mean.ndim != 1 or components.ndim != 2 or components.shape[1] != len(mean):
        shapes = f"mean_ {list(mean.shape)} and components_ {list(components.shape)}"
        raise InputError(f"{path} has {shapes}, which are not [D] and [d, D]; {CURE}")
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        raise InputError(f"{path} has values that are not finite; fit the PCA again")
    return Projection(mean.astype(np.float32), components.astype(np.float32), "")


def _whiten(path: Path, components: Doubles, variance: NDArray[Any] | None) -> Doubles:
    if variance is None or variance.shape != components.shape[:1]:
        raise InputError(f"{path}: whiten is true, and explained_variance_ is not [d]; {CURE}")
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused
        return np.asarray(components / np.sqrt(variance.astype(np.float64))[:, None])
