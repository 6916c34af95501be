"""Principal components that scikit-learn fitted, from arrays; a pickle of its `PCA` is a program, and is not read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.features.ensemble import Projection
from copytrace.storage import local_copy

CURE = (
    "write it where scikit-learn is, with: numpy.savez(FILE, mean_=pca.mean_, components_=pca.components_, "
    "explained_variance_=pca.explained_variance_, whiten=pca.whiten)"
)


def read_sklearn_pca(path: Path) -> Projection:
    """Return the projection of a scikit-learn `PCA` from an .npz file of its arrays.

    `mean_` [D] and `components_` [d, D] are needed; `explained_variance_` [d] too if `whiten` is true. Raises
    `InputError` for any other file, which says how to write one.
    """
    try:
        with local_copy(path) as file:
            arrays = _arrays(file)
            mean, components = arrays["mean_"].astype(np.float64), arrays["components_"].astype(np.float64)
            if bool(arrays.get("whiten", np.array(False)).any()):
                components = components / np.sqrt(arrays["explained_variance_"].astype(np.float64))[:, None]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no arrays of a PCA: {' '.join(str(error).split())}; {CURE}") from error
    if mean.ndim != 1 or components.ndim != 2 or components.shape[1] != len(mean):
        shapes = f"mean_ {list(mean.shape)} and components_ {list(components.shape)}"
        raise InputError(f"{path} has {shapes}, which are not [D] and [d, D]; {CURE}")
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        raise InputError(f"{path} has values that are not finite; fit the PCA again")
    return Projection(mean.astype(np.float32), components.astype(np.float32), "")


def _arrays(file: Path) -> Mapping[str, NDArray[np.generic]]:
    with np.load(file, allow_pickle=False) as content:
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        return {name: content[name] for name in content.files}
