"""The aligners by name, behind one interface: a similarity matrix in, segments with scores out."""

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
from copytrace.alignment.segments import Segment, merge_continued, suppress_overlapping
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
OVERLAP = 120  # frames that neighbouring tiles share; longer than most copied segments
MAX_OVERLAP = 0.8  # intersection over union; tiles see the frames that they share twice
CONTINUED_FRAMES = 3.0  # how far apart two pieces of one segment may lie, in frames


class Aligner(Protocol):
    """Finds the copied segments in a similarity matrix."""

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments, best first; none for an empty matrix."""


TRAINING_FREE: dict[str, Callable[..., Aligner]] = {
    "hough": HoughAligner,
    "dynamic_programming": DynamicProgrammingAligner,
}
ALIGNERS: dict[str, Callable[..., Aligner]] = {**TRAINING_FREE, "network": NetworkAligner}
DEFAULT_ALIGNER = "hough"


def build_aligner(name: str = DEFAULT_ALIGNER, **settings: Any) -> Aligner:
    """Return the aligner of that name, working in tiles past `MAX_SIDE` frames.

    `settings` are what its class takes. Raises `ConfigError` for an unknown name or setting, and where the network's
    model is missing.
    """
    if name not in ALIGNERS:
        raise ConfigError(f"unknown aligner {name!r}; choose one of {', '.join(ALIGNERS)}")
    known = signature(ALIGNERS[name]).parameters
    if unknown := sorted(settings.keys() - known.keys()):
        raise ConfigError(f"aligner {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    return TiledAligner(ALIGNERS[name](**settings))


@dataclass(frozen=True, slots=True)
class TiledAligner:
    """Cuts matrices with a side longer than `max_side` frames into tiles, and joins segments that go on across them.

    Memory is that of one tile, besides the matrix itself. Neighbouring tiles share `overlap` frames.
    """

    aligner: Aligner
    max_side: int = MAX_SIDE
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.max_side:
            raise ConfigError(f"tiles of {self.max_side} frames cannot share {self.overlap}; share fewer")

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a matrix of any size, best first."""
        rows, columns = (list(self._slices(length)) for length in matrix.shape)
        if len(rows) <= 1 and len(columns) <= 1:
            return self.aligner.align(matrix)
        pieces = [piece for r in rows for c in columns for piece in self.aligner.align(matrix.part(r, c))]
        frame = max(_typical_length(matrix.query_times), _typical_length(matrix.reference_times))
        return suppress_overlapping(merge_continued(pieces, CONTINUED_FRAMES * frame), MAX_OVERLAP)

    def _slices(self, length: int) -> Iterator[slice]:
        start = 0
        while start < length:
            yield slice(start, min(start + self.max_side, length))
            if start + self.max_side >= length:
                break
            start += self.max_side - self.overlap


def _typical_length(times: NDArray[np.float64]) -> float:
    return float(np.median(times[:, 1] - times[:, 0]))
