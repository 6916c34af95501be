"""The aligners by name and from settings, with one interface: similarity matrix in, segments with scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.settings import DescriptorSettings
from configs.videos import AlignmentSettings
from copytrace.alignment.dynamic_programming import DynamicProgrammingAligner
from copytrace.alignment.greedy_aligners import HoughAligner
from copytrace.alignment.networks import JointRules, NetworkAligner, PairFilter
from copytrace.alignment.segments import Segment, SimilarityMatrix, merge_pieces, suppress_overlapping
from copytrace.errors import ConfigError
from copytrace.model_sources import ModelKind, resolve_model
from copytrace.storage import digest_of_file

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
FEWEST_FRAMES = 3  # of either video of a pair that the filter judges
PIECE_DISTANCE = 3.0  # frames; largest distance between two pieces of one segment

_READINGS: dict[str, Callable[..., JointRules | Literal["vsc22"]]] = {
    "joint": JointRules,
    "vsc22": lambda **_: "vsc22",  # has its own constants
}
_RULES = ("backwards", "min_evidence", "max_segments", "half_evidence", "sharpness")


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


@dataclass(frozen=True, slots=True)
class FilteringAligner:
    """An aligner for only the pairs that a filter finds probable enough."""

    aligner: Aligner
    filter: PairFilter

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair, best first; none if the filter drops the pair, or if the matrix is empty.

        A video of fewer than `FEWEST_FRAMES` has no line that the filter could see; its pairs are aligned.
        """
        if min(matrix.shape) >= FEWEST_FRAMES and self.filter.probability([matrix])[0] < self.filter.threshold:
            return []
        return self.aligner.align(matrix)


def load_aligner(
    settings: AlignmentSettings, runtime: DescriptorSettings, digests: Mapping[str, str] | None = None
) -> Aligner:
    """Return the aligner of `settings`, with its pair filter, on the backend and device of the descriptor.

    `digests`, by default those of `model_digests`, identify the models that must be loaded. Raises `ConfigError` if a
    model is missing or damaged, or if its file is replaced during the call.
    """
    digests = model_digests(settings) if digests is None else digests
    rules = {name: value for name in _RULES if (value := getattr(settings, name)) is not None}
    aligner: Aligner
    if settings.aligner == "network":
        aligner = build_aligner(
            "network",
            model=settings.model,
            folds=settings.model_folds,
            backend=runtime.backend,
            device=runtime.device,
            rules=_READINGS[settings.reading](**rules),
        )
    else:
        aligner = build_aligner(settings.aligner, **rules)
    if settings.pair_filter != "none":
        pair_filter = PairFilter(
            settings.pair_filter,
            folds=settings.pair_filter_folds,
            threshold=settings.pair_threshold,
            backend=runtime.backend,
            device=runtime.device,
        )
        aligner = FilteringAligner(aligner, pair_filter)
    if model_digests(settings) != digests:
        raise ConfigError("a model of the alignment was replaced while it was loaded; run the same command again")
    return aligner


def model_digests(settings: AlignmentSettings) -> dict[str, str]:
    """Return the digests of the models of `settings`, since a name may later refer to another model.

    Keys are `aligner` and `pair_filter`, and `aligner 2` and so on for further folds. Raises `ConfigError` if a model
    is missing.
    """
    files: dict[str, Path] = {}
    if settings.aligner == "network":
        files |= _numbered("aligner", "aligner", (settings.model, *settings.model_folds))
    if settings.pair_filter != "none":
        files |= _numbered("pair_filter", "pair-classifier", (settings.pair_filter, *settings.pair_filter_folds))
    return {name: digest_of_file(path) for name, path in files.items()}


def _numbered(name: str, kind: ModelKind, sources: Sequence[str]) -> dict[str, Path]:
    paths = [resolve_model(source, kind) for source in sources]
    return {name if number == 1 else f"{name} {number}": path for number, path in enumerate(paths, 1)}
