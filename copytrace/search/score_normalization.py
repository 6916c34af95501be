"""Score normalization: how similar unrelated pictures are to a query, which is subtracted from its cosines."""

from __future__ import annotations

import numpy as np

from copytrace.arrays import Floats

UNKNOWN_NOISE = 0.3  # typical noise of a model whose file does not state it


def noise_level(cosines: Floats, neighbours: int, *, typical: float | None, skip: int = 0) -> Floats:
    """Return float32 [Q]: the mean of the `neighbours` greatest cosines to noise, after leaving out the first `skip`.

    The ISC 2021 baseline and VSC 2022 subtract this level, as SSCD does (`weight[first,last]`). Where the references
    themselves serve as noise, the nearest is skipped because it may be the copied one. `cosines` [Q, K] are sorted,
    greatest first, and −inf stands for a missing neighbor. The `typical` level of the model stands in for missing
    neighbors; None means `UNKNOWN_NOISE`.
    """
    level = UNKNOWN_NOISE if typical is None else typical
    chosen = cosines[:, skip : skip + neighbours]
    chosen = np.where(np.isfinite(chosen), chosen, np.float32(level))
    missing = neighbours - chosen.shape[1]
    return np.asarray((chosen.sum(axis=1) + missing * level) / max(neighbours, 1), np.float32)
