"""The aligner and the filter of pairs that settings ask for."""

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
from copytrace.runtime.model_sources import resolve_model
from copytrace.storage import digest_of_file

_READINGS: dict[str, Callable[..., JointRules | Literal["vsc22"]]] = {
    "joint": JointRules,
    "vsc22": lambda **_: "vsc22",  # its constants are its own
}
_RULES = ("backwards", "min_evidence", "max_segments", "half_evidence", "sharpness")


@dataclass(frozen=True, slots=True)
class FilteringAligner:
    """Aligns only the pairs that a filter finds likely enough."""

    aligner: Aligner
    filter: PairFilter

    def align(self, matrix: SimilarityMatrix) -> list[Segment]:
        """Return the segments of a pair, best first; none where the filter drops it, or the matrix is empty."""
        if not matrix.values.size or self.filter.probability([matrix])[0] < self.filter.threshold:
            return []
        return self.aligner.align(matrix)


def load_configured_aligner(
    settings: AlignmentSettings, runtime: DescriptorSettings, digests: Mapping[str, str] | None = None
) -> Aligner:
    """Load the aligner that `settings` ask for, and its filter, on the backend and device of the descriptor.

    `digests` are of `model_digests`, by whoever is to say later which models these were. Raises `ConfigError` for
    models that are missing or damaged, and for those that others take the place of meanwhile.
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
    """Return the digests of the models that `settings` ask for: the name of a model may come to mean another one.

    Keys are `aligner` and `pair_filter`. Raises `ConfigError` for models that are missing.
    """
    files = {}
    if settings.aligner == "network":
        files["aligner"] = resolve_model(settings.model, "aligner")
    if settings.pair_filter != "none":
        files["pair_filter"] = resolve_model(settings.pair_filter, "pair-classifier")
    return {name: digest_of_file(path) for name, path in files.items()}
