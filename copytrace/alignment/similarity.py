"""The similarity matrix of two videos, with the real time of every row and column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SimilarityMatrix:
    """The similarity of every frame of a query to every frame of a reference.

    `values` is float32 [Q, R], about 0 for unrelated frames and up to about 1 for equal ones (score-normalized
    cosines). `query_times` [Q, 2] and `reference_times` [R, 2] are the start and end of each row and column in
    seconds, float64, sorted by start; frames may differ in length, and there may be gaps between them. Raises
    `ValueError` if the shapes do not fit, if values or times are not finite, or if times are not sorted.
    """

    values: NDArray[np.float32]
    query_times: NDArray[np.float64]
    reference_times: NDArray[np.float64]

    def __post_init__(self) -> None:
        expected = (len(self.query_times), len(self.reference_times))
        if self.values.shape != expected:
            raise ValueError(f"similarity matrix is {self.values.shape}, but its times are for {expected}")
        if not np.isfinite(self.values).all():
            raise ValueError("similarity matrix has NaN or infinity; drop the frames without a descriptor")
        _check_times("query", self.query_times)
        _check_times("reference", self.reference_times)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (query frames) and columns (reference frames)."""
        return len(self.query_times), len(self.reference_times)

    def transpose(self) -> SimilarityMatrix:
        """Return the matrix with query and reference exchanged."""
        return SimilarityMatrix(self.values.T, self.reference_times, self.query_times)

    def part(self, rows: slice, columns: slice) -> SimilarityMatrix:
        """Return a view of some rows and columns."""
        return SimilarityMatrix(self.values[rows, columns], self.query_times[rows], self.reference_times[columns])


def _check_times(axis: str, times: NDArray[np.float64]) -> None:
    if times.ndim != 2 or times.shape[1] != 2:
        raise ValueError(f"{axis} times are {times.shape}, not [frames, 2]: the start and end of every frame")
    if not np.isfinite(times).all():
        raise ValueError(f"{axis} times have NaN or infinity; give every frame a start and an end in seconds")
    if (times[:, 0] >= times[:, 1]).any():
        raise ValueError(f"{axis} times have a frame that does not end after it starts; give every frame a length")
    if (np.diff(times[:, 0]) <= 0).any():
        raise ValueError(f"{axis} times are not ascending; sort the frames by start")
