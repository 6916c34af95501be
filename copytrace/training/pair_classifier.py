"""Training of the classifier that drops candidate pairs of videos, with cross-validation of its threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from configs.training import PairTraining
from copytrace.arrays import Floats
from copytrace.errors import ConfigError
from copytrace.step import Progress
from copytrace.storage import atomic_path, digest_of, open_output
from copytrace.training.aligner_module import cell_loss
from copytrace.training.distributed import is_first_process, launch
from copytrace.training.initial_weights import MAY_CHANGE, resolve_start, training_device
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import TrainingContext, TrainingModule, fit
from copytrace.training.matrices import LabeledPair, LabeledPairs, fold_number, read_labeled_pairs
from copytrace.training.matrix_examples import MatrixSource, PairExamples
from copytrace.training.pair_validation import (
    PairValidation,
    pair_labels,
    pair_metrics,
    pair_probabilities,
    safe_threshold,
)
from copytrace.training.training_result import TrainingResult, write_result
from models.configs import ModelFileError
from models.network_files import load_pair_classifier, save_pair_classifier
from models.pair_network import COARSE, LightPairClassifier, PairNetwork, build_pair_classifier

FILE = "pair_classifier.safetensors"
SCORE = "likelihood"
DECIDED_LATER = {"cross_validated": True, "threshold_runs": True}  # settings that do not change a fold's weights
COPIED_WEIGHT = 3.0  # of coarse cells with a copy, relative to those without


class PairModule(TrainingModule[PairNetwork]):
    """Training on batches of `matrix`, `inside` and `cells`, float32 [N, S, S], and `label` [N]; see `PairExamples`."""

    def __init__(self, network: PairNetwork, *, cell_weight: float) -> None:
        super().__init__()
        self.network = network
        self.cell_weight = cell_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, the cross-entropy of pairs; for the light network also its two parts, `pairs` and `cells`."""
        network, matrix, inside = self.network, batch["matrix"][:, None], batch["inside"][:, None]
        if not isinstance(network, LightPairClassifier):
            return {"loss": pair_loss(network(matrix), batch["label"])}
        coarse = network.coarse_map(matrix, inside)
        pairs = pair_loss(network.classify(coarse, inside), batch["label"])
        label = functional.max_pool2d(batch["cells"], COARSE, ceil_mode=True)
        cells = cell_loss(network.cells(coarse)[:, 0], label, batch["inside"][:, ::COARSE, ::COARSE], COPIED_WEIGHT)
        return {"loss": pairs + self.cell_weight * cells, "pairs": pairs, "cells": cells}


def pair_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits and labels, both [N]."""
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())


def train_pair_classifier(
    runs: Sequence[tuple[Path, Path]],
    out: str | Path,
    settings: PairTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on the pairs of finished runs and return `out/pair_classifier.safetensors`.

    The file's notes have the held-out fold and the `threshold` (`safe_threshold`). With `cross_validated` the other
    folds are trained too, in `out/folds/`, and the threshold is that of all pairs, each judged by the classifier that
    has not learned from its query; the metrics of these judgments are named `out_of_fold_…`. With `threshold_runs`
    only pairs of the first runs count for them. Both settings can be changed without another training. Runs, other
    files and errors are as in `train_aligner`.
    """
    with open_output(out) as folder:
        return launch(_train, runs, folder, settings, log or SilentLog(), progress, devices=settings.loop.devices)


@dataclass(frozen=True, slots=True)
class _TrainedFold:
    """A classifier with the precision of its file, its folder, and its training."""

    network: PairNetwork
    out: Path
    settings: PairTraining
    result: TrainingResult

    def write(self, threshold: float, metrics: Mapping[str, float]) -> None:
        """Write the file, its card and its result, with additional metrics."""
        result = replace(self.result, metrics={**self.result.metrics, **metrics})
        split = {"fold": self.settings.fold, "folds": self.settings.folds, "seed": self.settings.loop.seed}
        with atomic_path(self.out / FILE) as file:
            save_pair_classifier(self.network, file, notes={**result.facts(), **split, "threshold": threshold})
        write_result(self.out, result, self.settings)


def _train(
    runs: Sequence[tuple[Path, Path]],
    out: Path,
    settings: PairTraining,
    log: TrainingLog,
    progress: Progress | None,
) -> Path:
    labeled, folders = read_labeled_pairs(runs), {settings.fold: out}
    if settings.cross_validated:
        folders |= {fold: out / "folds" / str(fold) for fold in range(settings.folds) if fold != settings.fold}
    trained = [
        _train_fold(
            labeled, folder, settings.model_copy(update={"fold": fold}), log if folder == out else SilentLog(), progress
        )
        for fold, folder in folders.items()
    ]
    if not is_first_process():
        return out / FILE
    networks = {fold.settings.fold: fold.network for fold in trained}
    pairs = [
        pair
        for pair in labeled.pairs
        if fold_number(pair.query, settings.folds, settings.loop.seed) in networks
        and (pair.run < settings.threshold_runs or not settings.threshold_runs)
    ]
    labels = pair_labels(pairs)
    probabilities = held_out_probabilities(networks, pairs, settings.folds, settings.loop.seed)
    threshold, metrics = safe_threshold(probabilities, labels), pair_metrics(probabilities, labels)
    additional = {f"out_of_fold_{name}": value for name, value in metrics.items()} if settings.cross_validated else {}
    for fold in trained:
        fold.write(threshold, additional)
    return out / FILE


def _train_fold(
    labeled: LabeledPairs, out: Path, settings: PairTraining, log: TrainingLog, progress: Progress | None
) -> _TrainedFold:
    """Train without the queries of `settings.fold`."""
    device, seed = training_device(settings.loop), settings.loop.seed
    training, held_out = labeled.split(settings.fold, settings.folds, seed)
    network = initial_network(settings)
    canvas = network.config.canvas
    examples = PairExamples(
        MatrixSource.from_pairs(training, settings.synthetic_share, settings.true_share),
        settings.examples_per_epoch,
        canvas or settings.side,
        drawn=2 * canvas if canvas else settings.side,
        seed=seed,
    )
    fingerprint = digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE, **DECIDED_LATER}), labeled.digest)
    result = fit(
        PairModule(network, cell_weight=settings.cell_weight).to(memory_format=torch.channels_last),
        examples,
        PairValidation(tuple(held_out)).metrics,
        settings.loop,
        TrainingContext(out, fingerprint, device, log, progress),
        score=SCORE,
    )
    training_result = TrainingResult(
        title="Copytrace pair classifier",
        metrics=result.metrics,
        score=SCORE,
        best_epoch=result.epoch,
        images=len(training),
        validation_images=len(held_out),
        dataset_digest=labeled.digest,
        validation_digest=digest_of(labeled.digest, settings.fold, settings.folds, seed),
        seconds=round(result.seconds, 1),
        device=str(device),
        settings=settings.model_dump(mode="json"),
        unit="pairs of videos",
    )
    return _TrainedFold(reload_stored(result.network), out, settings, training_result)


def reload_stored(network: PairNetwork) -> PairNetwork:
    """Return the network as read from a file: its half precision may change the pair that decides the threshold."""
    with TemporaryDirectory() as folder:
        return load_pair_classifier(save_pair_classifier(network, Path(folder) / FILE))


def initial_network(settings: PairTraining) -> PairNetwork:
    """Return the network before its training, on the CPU. Raises `ConfigError` when its start does not fit."""
    torch.manual_seed(settings.loop.seed)
    try:
        if settings.start == "random":
            return build_pair_classifier(settings.architecture)
        network = load_pair_classifier(resolve_start(settings.start, "pair-classifier"))
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if network.config.architecture != settings.architecture:
        raise ConfigError(f"{settings.start} holds a {network.config.architecture}; set architecture to that")
    return network


def held_out_probabilities(
    networks: Mapping[int, PairNetwork], pairs: Sequence[LabeledPair], folds: int, seed: int
) -> Floats:
    """Return the probability of each pair, float32 [N], by the network of its fold, which has not learned from it."""
    probabilities = np.zeros(len(pairs), np.float32)
    numbers = np.array([fold_number(pair.query, folds, seed) for pair in pairs])
    for fold, network in networks.items():
        rows = np.flatnonzero(numbers == fold).tolist()
        probabilities[rows] = pair_probabilities(network, [pairs[row] for row in rows])
    return probabilities
