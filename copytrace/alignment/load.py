"""Loading of the aligner and the pair filter from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from configs.settings import DescriptorSettings
from configs.videos import AlignmentSettings
from copytrace.alignment.aligners import Aligner, build_aligner
from copytrace.alignment.network_aligner import JointRules
from copytrace.alignment.pair_filter import PairFilter, load_pair_filter
from copytrace.alignment.segments import Segment
from copytrace.alignment.similarity import SimilarityMatrix
from copytrace.errors import ConfigError
from copytrace.runtime import resolve_model
from copytrace.storage import digest_of_file

_READINGS: dict[str, Callable[..., JointRules | Literal["vsc22"]]] = {
    "joint": JointRules,
    "vsc22": lambda **_: "vsc22",  # has its own constants
}
_RULES = ("backwards", "min_evidence", "max_segments", "half_evidence", "sharpness")


@dataclass(frozen=True, slots=True)
class FilteringAligner:
    """An aligner for only the pairs that a filter finds probable enough."""

    aligner: Aligner
    filter: PairFilter

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair, best first; none if the filter drops the pair, or if the matrix is empty."""
        if not matrix.values.size or self.filter.probability([matrix])[0] < self.filter.threshold:
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
            backend=runtime.backend,
            device=runtime.device,
            rules=_READINGS[settings.reading](**rules),
        )
    else:
        aligner = build_aligner(settings.aligner, **rules)
    if settings.pair_filter != "none":
        aligner = FilteringAligner(
            aligner, load_pair_filter(settings.pair_filter, backend=runtime.backend, device=runtime.device)
        )
    if model_digests(settings) != digests:
        raise ConfigError("a model of the alignment was replaced while it was loaded; run the same command again")
    return aligner


def model_digests(settings: AlignmentSettings) -> dict[str, str]:
    """Return the digests of the models of `settings`, since a name may later refer to another model.

    Keys are `aligner` and `pair_filter`. Raises `ConfigError` if a model is missing.
    """
    files = {}
    if settings.aligner == "network":
        files["aligner"] = resolve_model(settings.model, "aligner")
    if settings.pair_filter != "none":
        files["pair_filter"] = resolve_model(settings.pair_filter, "pair-classifier")
    return {name: digest_of_file(path) for name, path in files.items()}
