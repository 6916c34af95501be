"""Descriptors of the pictures of a video, many of which may be the same: slides, screens, stills."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats


class RepeatedPictures:
    """Describes the pictures of one video, in order; one that equals the one before it in its series has its vector.

    `describe` is that of a `Descriptor`, which gets at most `batch_size` pictures at a time.
    """

    def __init__(self, describe: Callable[[NDArray[np.uint8]], Floats], batch_size: int) -> None:
        self._describe, self._batch_size = describe, batch_size
        self._last: dict[str, tuple[NDArray[np.uint8], Floats]] = {}

    def describe(self, pictures: NDArray[np.uint8], series: str = "") -> Floats:
        """Return the vectors float32 [N, D] of pictures uint8 [N, …] that follow on those given for `series` before.

        N must not be 0.
        """
        last = self._last.get(series)
        is_new = np.ones(len(pictures), bool)
        is_new[0] = last is None or not np.array_equal(pictures[0], last[0])
        is_new[1:] = [not np.array_equal(*pair) for pair in zip(pictures[1:], pictures[:-1], strict=True)]
        new = pictures if is_new.all() else pictures[is_new]
        known = [] if is_new[0] or last is None else [last[1][None]]
        batches = (new[start : start + self._batch_size] for start in range(0, len(new), self._batch_size))
        described: Floats = np.concatenate([*known, *map(self._describe, batches)])
        vectors: Floats = described[np.cumsum(is_new) - (not known)]
        self._last[series] = pictures[-1].copy(), vectors[-1].copy()
        return vectors
