"""Inputs of the pair classifier from a similarity matrix, in training and in matching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.network_aligner import tile_spans
from models.configs import PairConfig

Floats = NDArray[np.float32]


def pair_canvases(values: Floats, config: PairConfig) -> Iterator[Floats]:
    """Yield the classifier's inputs for similarities float32 [Q, R]; the largest answer is that of the pair.

    A picture classifier gets one canvas. The light classifier gets the matrix itself, in overlapping tiles if a side
    has more than 512 frames. An empty matrix has no input.
    """
    if not values.size:
        return
    if config.canvas is not None:
        yield pair_canvas(values, config.canvas)
        return
    for rows in tile_spans(values.shape[0]):
        for columns in tile_spans(values.shape[1]):
            yield values[rows.tile, columns.tile]


def pair_canvas(values: Floats, side: int) -> Floats:
    """Return similarities float32 [Q, R] in the upper left corner of zeros, float32 [side, side].

    A longer axis is divided into `side` runs of frames as evenly as possible; each run is reduced to its maximum.
    """
    for axis in (0, 1):
        length = values.shape[axis]
        if length > side:
            values = np.maximum.reduceat(values, np.arange(side) * length // side, axis=axis)
    canvas = np.zeros((side, side), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
