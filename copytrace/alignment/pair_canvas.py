"""The canvas on which the classifier of pairs sees a similarity matrix, in training and in matching."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.pair_files import CANVAS

Floats = NDArray[np.float32]


def pair_canvas(values: Floats) -> Floats:
    """Put similarities float32 [Q, R] into the upper left corner of zeros, float32 [160, 160].

    An axis that is longer is cut into 160 runs of frames as even as can be, each with its largest value.
    """
    for axis in (0, 1):
        length = values.shape[axis]
        if length > CANVAS:
            values = np.maximum.reduceat(values, np.arange(CANVAS) * length // CANVAS, axis=axis)
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
