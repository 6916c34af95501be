"""The aligners by name, with one interface: similarity matrix in, segments with scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from copytrace.alignment.dynamic_programming import DynamicProgrammingAligner
from copytrace.alignment.hough import HoughAligner
from copytrace.alignment.network_aligner import NetworkAligner
from copytrace.alignment.segments import Segment, merge_pieces, suppress_overlapping
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError

__all__ = [
    "ALIGNERS",
    "DEFAULT_ALIGNER",
    "TRAINING_FREE",
    "Aligner",
    "SimilarityMatrix",
    "TiledAligner",
    "build_aligner",
]

MAX_SIDE = 1500  # frames: 25 minutes at one per second
OVERLAP = 120  # frames that neighboring tiles share; more than most copied segments have
MAX_OVERLAP = 0.8  # intersection over union of two segments; tiles find those in shared frames twice
PIECE_DISTANCE = 3.0  # frames; largest distance between two pieces of one segment


class Aligner(Protocol):
    """A method that finds the copied segments in a similarity matrix."""

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments, best first; an empty matrix has none."""


TRAINING_FREE: dict[str, Callable[..., Aligner]] = {
    "hough": HoughAligner,
    "dynamic_programming": DynamicProgrammingAligner,
}
ALIGNERS: dict[str, Callable[..., Aligner]] = {**TRAINING_FREE, "network": NetworkAligner}
DEFAULT_ALIGNER = "hough"


def build_aligner(name: str = DEFAULT_ALIGNER, **settings: Any) -> Aligner:
    """Return the aligner of that name, which works in tiles if a side has more than `MAX_SIDE` frames.

    `settings` are the parameters of its class. Raises `ConfigError` if the name or a setting is unknown, or if the
    network's model is missing.
    """
    if name not in ALIGNERS:
        raise ConfigError(f"unknown aligner {name!r}; choose one of {', '.join(ALIGNERS)}")
    known = signature(ALIGNERS[name]).parameters
    if unknown := sorted(settings.keys() - known.keys()):
        raise ConfigError(f"aligner {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    return TiledAligner(ALIGNERS[name](**settings))


@dataclass(frozen=True, slots=True)
class TiledAligner:
    """An aligner for large matrices: it cuts sides over `max_side` frames into tiles, and joins their segments.

    Neighboring tiles share `overlap` frames. Memory holds one tile besides the matrix itself.
    """

    aligner: Aligner
    max_side: int = MAX_SIDE
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.max_side:
            raise ConfigError(
                f"tiles of {self.max_side} frames cannot share {self.overlap}; lower overlap or raise max_side"
            )

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a matrix of any size, best first."""
        rows, columns = (list(self._slices(length)) for length in matrix.shape)
        if len(rows) <= 1 and len(columns) <= 1:
            return self.aligner.align(matrix)
        pieces = [piece for r in rows for c in columns for piece in self.aligner.align(matrix.part(r, c))]
        frame = max(_typical_length(matrix.query_times), _typical_length(matrix.reference_times))
        return suppress_overlapping(merge_pieces(pieces, PIECE_DISTANCE * frame), MAX_OVERLAP)

    def _slices(self, length: int) -> Iterator[slice]:
        start = 0
        while start < length:
            yield slice(start, min(start + self.max_side, length))
            if start + self.max_side >= length:
                break
            start += self.max_side - self.overlap


def _typical_length(times: NDArray[np.float64]) -> float:
    return float(np.median(times[:, 1] - times[:, 0]))
