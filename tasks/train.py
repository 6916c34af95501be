"""Train: a network learns, its run is tracked in MLflow, and what comes out is registered there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect.artifacts import create_table_artifact

from configs.settings import Settings
from configs.training import AlignerTraining, DescriptorTraining, OverlayTraining, PairTraining
from copytrace.progress import Progress
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
    """A way to train: its MLflow experiment, the name its models are registered under, and the work itself.

    `learns_from` names the data to people; `run(data, out, settings, log, progress)` returns the weights, of which
    `export` makes an ONNX file.
    """

    experiment: str
    model: str
    learns_from: str
    run: Callable[[D, Path, S, TrainingLog, Progress], Path]
    export: Callable[[Path], Path | None]


def _train_descriptor(
    photos: str, out: Path, settings: DescriptorTraining, log: TrainingLog, progress: Progress
) -> Path:
    from copytrace.training.descriptor import train_descriptor  # here: torch and timm take seconds  # noqa: PLC0415

    return train_descriptor(photos, out, settings, log, progress)


def _train_overlay_detector(
    photos: str, out: Path, settings: OverlayTraining, log: TrainingLog, progress: Progress
) -> Path:
    from copytrace.training.overlay import train_overlay_detector  # noqa: PLC0415

    return train_overlay_detector(photos, out, settings, log, progress)


def _train_aligner(runs: Runs, out: Path, settings: AlignerTraining, log: TrainingLog, progress: Progress) -> Path:
    from copytrace.training.aligner import train_aligner  # noqa: PLC0415

    return train_aligner(runs, out, settings, log, progress)


def _train_pair_classifier(runs: Runs, out: Path, settings: PairTraining, log: TrainingLog, progress: Progress) -> Path:
    from copytrace.training.pair_classifier import train_pair_classifier  # noqa: PLC0415

    return train_pair_classifier(runs, out, settings, log, progress)


def _export_descriptor(weights: Path) -> Path | None:
    from copytrace.training.export import export_descriptor  # noqa: PLC0415

    return export_descriptor(weights)


def _export_overlay_detector(weights: Path) -> Path | None:
    from copytrace.training.export import export_overlay_detector  # noqa: PLC0415

    return export_overlay_detector(weights)


def _export_aligner(weights: Path) -> Path | None:
    from copytrace.training.export import export_aligner  # noqa: PLC0415

    return export_aligner(weights)


def _export_pair_classifier(weights: Path) -> Path | None:
    from copytrace.training.export import export_pair_classifier  # noqa: PLC0415

    return export_pair_classifier(weights)


RUNS = "runs of match-videos"

DESCRIPTOR = Training("train-descriptor", "copytrace-descriptor", "photos", _train_descriptor, _export_descriptor)
OVERLAY_DETECTOR = Training(
    "train-overlay-detector", "copytrace-overlay", "photos", _train_overlay_detector, _export_overlay_detector
)
ALIGNER = Training("train-aligner", "copytrace-aligner", RUNS, _train_aligner, _export_aligner)
PAIR_CLASSIFIER = Training(
    "train-pair-classifier", "copytrace-pair-classifier", RUNS, _train_pair_classifier, _export_pair_classifier
)


@step_task("train {training.model}", training_slots)
def train(training: Training[D, S], data: D, out: Path, settings: S) -> int:
    """Train on `data` in the folder `out`, and return the version under which the model is registered.

    Called again with the same folder, it goes on from the last checkpoint, in the same MLflow run.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open_run(out, training.experiment, settings.model_dump(mode="json")) as run:
        weights = training.run(data, out, settings, run.log, ArtifactProgress())
        outcome = read_result(out)
        run.log_dataset(_where(data), outcome.dataset_digest, "training", of=training.learns_from)
        run.log_dataset(_where(data), outcome.validation_digest, "validation", of=training.learns_from)
        graph = training.export(weights)
        files = [weights, *([graph] if graph else []), out / CARD]
        show_outputs(out, training.experiment)
        return register(run, training.model, files, outcome.metrics, score=outcome.score)


@step_task("promote {training.model} {version}")
def promote(training: Training[Any, Any], version: int, out: Path, min_improvement: float) -> dict[str, Any]:
    """Make the version the champion if it beats the present one, and show the decision beside its figures."""
    decision = move_champion(training.model, version, min_improvement=min_improvement)
    outcome = read_result(out)
    rows = [{"what": name, "figure": value} for name, value in outcome.metrics.items()]
    verdict = "is the champion" if decision.promoted else "was refused"
    create_table_artifact(
        rows, key=f"{training.experiment}-figures", description=f"Version {version} {verdict}: {decision.reason}"
    )
    return {**asdict(decision), "metrics": outcome.metrics}


def _where(data: object) -> str:
    """Where training data lie: the source of photos, or the folders of runs."""
    return data if isinstance(data, str) else ", ".join(str(run) for run, _ in data)  # type: ignore[attr-defined]
