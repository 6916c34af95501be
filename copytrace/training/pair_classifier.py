"""Training the classifier that drops candidate pairs of videos, and its scores of those it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from configs.training import PairTraining
from copytrace.errors import ConfigError
from copytrace.progress import Progress
from copytrace.storage import digest_of
from copytrace.training.distributed import is_leader, launch
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import Trainee, fit
from copytrace.training.matrices import LabelledPair, fold_of, read_labelled_pairs
from copytrace.training.matrix_examples import MatrixSource, PairExamples
from copytrace.training.outcome import Outcome, write_outcome
from copytrace.training.pair_validation import PairValidation, probabilities
from copytrace.training.starting import MAY_CHANGE, device_of
from models.descriptor_files import read_header
from models.pair_files import KIND, load_pair_classifier, save_pair_classifier
from models.pair_network import PairClassifier, build_pair_classifier
from models.pretrained import ModelFileError

FILE = "pair_classifier.safetensors"
SCORE = "likelihood"


class PairTrainee(Trainee[PairClassifier]):
    """Learns from batches of `matrix` float32 [N, 160, 160] and `label` float32 [N]."""

    def __init__(self, network: PairClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, the cross-entropy."""
        logits = self.network(batch["matrix"][:, None])
        return {"loss": functional.binary_cross_entropy_with_logits(logits.float(), batch["label"].float())}


def train_pair_classifier(
    runs: Sequence[tuple[Path, Path]],
    out: Path,
    settings: PairTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on the pairs of finished runs and return `out/pair_classifier.safetensors`.

    The file's notes tell the fold that was kept out, and the `threshold` that keeps 99 % of the true pairs of it. Runs,
    other files and errors are as of `train_aligner`.
    """
    return launch(_train, runs, out, settings, log or SilentLog(), progress, devices=settings.loop.devices)


def _train(
    runs: Sequence[tuple[Path, Path]],
    out: Path,
    settings: PairTraining,
    log: TrainingLog,
    progress: Progress | None,
) -> Path:
    device, seed = device_of(settings.loop), settings.loop.seed
    labelled = read_labelled_pairs(runs)
    learned, kept_out = labelled.split(settings.fold, settings.folds, seed)
    validation = PairValidation(tuple(kept_out))
    source = MatrixSource.of(learned, settings.synthetic_share, settings.true_share)
    result = fit(
        PairTrainee(starting_network(settings)).to(memory_format=torch.channels_last),
        PairExamples(source, settings.examples_per_epoch, seed),
        validation.metrics,
        settings.loop,
        out,
        score=SCORE,
        stamp=digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE}), labelled.digest),
        device=device,
        log=log,
        progress=progress,
    )
    if not is_leader():
        return out / FILE
    outcome = Outcome(
        title="Copytrace pair classifier",
        metrics=result.metrics,
        score=SCORE,
        best_epoch=result.epoch,
        images=len(learned),
        validation_images=len(kept_out),
        dataset_digest=labelled.digest,
        validation_digest=digest_of(labelled.digest, settings.fold, settings.folds, seed),
        seconds=round(result.seconds, 1),
        device=str(device),
        settings=settings.model_dump(mode="json"),
        unit="pairs of videos",
    )
    folds = {"fold": settings.fold, "folds": settings.folds, "seed": seed}
    notes = {**outcome.facts(), **folds, "threshold": validation.threshold(result.network)}
    save_pair_classifier(result.network, out / FILE, notes=notes)
    write_outcome(out, outcome, settings)
    return out / FILE


def starting_network(settings: PairTraining) -> PairClassifier:
    """Return the network before its training, on the CPU; raises `ConfigError` when its start does not fit."""
    torch.manual_seed(settings.loop.seed)
    try:
        if settings.start == "random":
            return build_pair_classifier(settings.architecture)
        network = load_pair_classifier(Path(settings.start))
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if network.config.architecture != settings.architecture:
        raise ConfigError(f"{settings.start} holds a {network.config.architecture}; set architecture to that")
    return network


def out_of_fold_probabilities(
    files: Sequence[Path], runs: Sequence[tuple[Path, Path]]
) -> list[tuple[LabelledPair, float]]:
    """Return every pair of the runs with the probability by the classifier that has not learned from its query.

    `files` are one classifier per fold; the runs may be others than those learned from, of the same queries. Raises
    `ConfigError` for files that are no classifiers or do not make up one set of folds, and errors as of
    `read_labelled_pairs`.
    """
    try:
        notes = [read_header(file, KIND)["notes"] for file in files]
    except ModelFileError as error:
        raise ConfigError(str(error)) from error
    told = {(note.get("folds"), note.get("seed")) for note in notes}
    folds, seed = told.pop() if len(told) == 1 else (0, 0)
    if not folds or sorted(note["fold"] for note in notes) != list(range(folds)):
        raise ConfigError(
            f"{len(files)} classifiers do not make up one set of folds; train one for each fold=0, 1, … with the same "
            "folds and loop.seed"
        )
    pairs = read_labelled_pairs(runs).pairs
    found = np.zeros(len(pairs))
    home = np.array([fold_of(pair.query, folds, seed) for pair in pairs])
    for file, note in zip(files, notes, strict=True):
        rows = np.flatnonzero(home == note["fold"])
        found[rows] = probabilities(load_pair_classifier(file), [pairs[row] for row in rows])
    return list(zip(pairs, found.tolist(), strict=True))
