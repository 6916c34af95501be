"""What the classifier of pairs sees of a similarity matrix, in training and in matching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.network_aligner import spans
from models.configs import PairConfig

Floats = NDArray[np.float32]


def pair_canvases(values: Floats, config: PairConfig) -> Iterator[Floats]:
    """Yield what a classifier looks at of similarities float32 [Q, R]: the pair is what the surest look says.

    A picture classifier gets one canvas. The light one gets the matrix itself, past 512 frames in tiles that overlap.
    There is nothing to look at in an empty matrix.
    """
    if not values.size:
        return
    if config.canvas is not None:
        yield pair_canvas(values, config.canvas)
        return
    for rows in spans(values.shape[0]):
        for columns in spans(values.shape[1]):
            yield values[rows.seen, columns.seen]


def pair_canvas(values: Floats, side: int) -> Floats:
    """Put similarities float32 [Q, R] into the upper left corner of zeros, float32 [side, side].

    An axis that is longer is cut into `side` runs of frames as even as can be, each with its largest value.
    """
    for axis in (0, 1):
        length = values.shape[axis]
        if length > side:
            values = np.maximum.reduceat(values, np.arange(side) * length // side, axis=axis)
    canvas = np.zeros((side, side), np.float32)
    canvas[: values.shape[0], : values.shape[1]] = values
    return canvas
