"""Training of a network, tracked in MLflow and registered there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from prefect.artifacts import create_table_artifact

from configs.settings import Settings
from configs.training import AlignerTraining, DescriptorTraining, OverlayTraining, PairTraining
from copytrace.lease import hold_lease
from copytrace.model_sources import ModelKind
from copytrace.step import Progress
from copytrace.training.log import TrainingLog
from copytrace.training.training_result import CARD, read_result
from tasks.artifacts import show_outputs
from tasks.experiment import open_run
from tasks.limits import training_slots
from tasks.progress import ArtifactProgress
from tasks.promotion import promote as move_champion
from tasks.registry import register
from tasks.step_task import step_task

S = TypeVar("S", bound=Settings)
D = TypeVar("D")
Runs = Sequence[tuple[Path, Path]]


@dataclass(frozen=True)
class Training(Generic[D, S]):
    """A training: its MLflow experiment, the kind of its model, and the function that trains.

    `learns_from` describes the data to people. `function` is "module:name", imported only when it runs, as torch and
    timm take seconds; it is called with the data, the output folder, settings, log and progress, and returns the
    weights.
    """

    experiment: str
    kind: ModelKind
    learns_from: str
    function: str

    @property
    def model(self) -> str:
        """Name under which its models are registered."""
        return f"copytrace-{self.kind}"

    def run(self, data: D, out: Path, settings: S, log: TrainingLog, progress: Progress) -> Path:
        """Train in the folder `out`, and return the weights."""
        weights: Path = resolve_name(self.function)(data, out, settings, log, progress)
        return weights


RUNS = "runs of match-videos"

DESCRIPTOR: Training[str, DescriptorTraining] = Training(
    "train-descriptor", "descriptor", "photos", "copytrace.training.descriptor:train_descriptor"
)
OVERLAY_DETECTOR: Training[str, OverlayTraining] = Training(
    "train-overlay-detector", "overlay", "photos", "copytrace.training.overlay:train_overlay_detector"
)
ALIGNER: Training[Runs, AlignerTraining] = Training(
    "train-aligner", "aligner", RUNS, "copytrace.training.aligner:train_aligner"
)
PAIR_CLASSIFIER: Training[Runs, PairTraining] = Training(
    "train-pair-classifier", "pair-classifier", RUNS, "copytrace.training.pair_classifier:train_pair_classifier"
)


@step_task("train {training.model}", training_slots)
def train(training: Training[D, S], data: D, out: Path, settings: S) -> int:
    """Train on `data` in the folder `out`, register the model, and return its version.

    A second call with the same folder continues from the last checkpoint, in the same MLflow run.
    """
    from copytrace.training.export import export_weights  # here: torch and timm take seconds  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    with hold_lease(out), open_run(out, training.experiment, settings.model_dump(mode="json")) as run:
        weights = training.run(data, out, settings, run.log, ArtifactProgress())
        result = read_result(out)
        run.log_dataset(_where(data), result.dataset_digest, "training", of=training.learns_from)
        run.log_dataset(_where(data), result.validation_digest, "validation", of=training.learns_from)
        graph = export_weights(training.kind, weights)
        files = [weights, *([graph] if graph else []), out / CARD]
        show_outputs(out, training.experiment)
        return register(run, training.model, files, result.metrics, score=result.score)


@step_task("promote {training.model} {version}")
def promote(training: Training[Any, Any], version: int, out: Path, min_improvement: float) -> dict[str, Any]:
    """Make the version the champion if it is better than the present one, and publish the decision with the metrics."""
    decision = move_champion(training.model, version, min_improvement=min_improvement)
    result = read_result(out)
    rows = [{"what": name, "figure": value} for name, value in result.metrics.items()]
    verdict = "is the champion" if decision.promoted else "was refused"
    create_table_artifact(
        rows, key=f"{training.experiment}-figures", description=f"Version {version} {verdict}: {decision.reason}"
    )
    return {**asdict(decision), "metrics": result.metrics}


def _where(data: object) -> str:
    """Return the source of the photos, or the folders of the runs."""
    return data if isinstance(data, str) else ", ".join(str(run) for run, _ in data)  # type: ignore[attr-defined]
