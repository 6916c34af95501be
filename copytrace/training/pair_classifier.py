"""Training the classifier that drops candidate pairs of videos, and its scores of those it has not learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
from copytrace.progress import Progress
from copytrace.storage import atomic_path, digest_of, local_copy, require_writable
from copytrace.training.aligner_module import cell_loss
from copytrace.training.distributed import is_first_process, launch
from copytrace.training.initial_weights import MAY_CHANGE, resolve_start, training_device
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import TrainingContext, TrainingModule, fit
from copytrace.training.matrices import LabelledPair, LabelledPairs, fold_of, read_labelled_pairs
from copytrace.training.matrix_examples import MatrixSource, PairExamples
from copytrace.training.pair_validation import (
    PairValidation,
    labels_of,
    pair_metrics,
    probabilities,
    safe_threshold,
)
from copytrace.training.training_result import TrainingResult, write_result
from models.network_files import read_header
from models.pair_files import KIND, load_pair_classifier, save_pair_classifier
from models.pair_network import COARSE, LightPairClassifier, PairNetwork, build_pair_classifier
from models.pretrained import ModelFileError

FILE = "pair_classifier.safetensors"
SCORE = "likelihood"
DECIDED_LATER = {"cross_validated": True, "threshold_runs": True}  # settings that change no fold's weights
COPIED_WEIGHT = 3.0  # of coarse cells that hold a copy, against those that hold none


class PairModule(TrainingModule[PairNetwork]):
    """Learns from batches of `matrix`, `inside` and `cells`, float32 [N, S, S], and `label` [N]; see `PairExamples`."""

    def __init__(self, network: PairNetwork, *, cell_weight: float) -> None:
        super().__init__()
        self.network = network
        self.cell_weight = cell_weight

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, the cross-entropy of pairs; of the light network, `pairs` and `cells`, its two parts."""
        network, matrix, inside = self.network, batch["matrix"][:, None], batch["inside"][:, None]
        if not isinstance(network, LightPairClassifier):
            return {"loss": pair_loss(network(matrix), batch["label"])}
        seen = network.seen(matrix, inside)
        pairs = pair_loss(network.judged(seen, inside), batch["label"])
        told = functional.max_pool2d(batch["cells"], COARSE, ceil_mode=True)
        cells = cell_loss(network.cells(seen)[:, 0], told, batch["inside"][:, ::COARSE, ::COARSE], COPIED_WEIGHT)
        return {"loss": pairs + self.cell_weight * cells, "pairs": pairs, "cells": cells}


def pair_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits and labels, both [N]."""
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())


def train_pair_classifier(
    runs: Sequence[tuple[Path, Path]],
    out: str | Path,
    settings: PairTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on the pairs of finished runs and return `out/pair_classifier.safetensors`.

    The file's notes tell the fold that was kept out, and its `threshold` (`safe_threshold`). With `cross_validated`
    settings the other folds are trained too, in `out/folds/`, and the threshold is that of all pairs, each judged by
    the classifier that has not learned from its query; the figures of that are among the metrics, as `out_of_fold_…`.
    With `threshold_runs` only pairs of the first runs count for these. Both can be changed without training anew.
    Runs, other files and errors are as of `train_aligner`.
    """
    return launch(
        _train, runs, require_writable(out), settings, log or SilentLog(), progress, devices=settings.loop.devices
    )


@dataclass(frozen=True, slots=True)
class _Trained:
    """A classifier as its file will hold it, where that goes, and how it came about."""

    network: PairNetwork
    out: Path
    settings: PairTraining
    outcome: TrainingResult

    def keep(self, threshold: float, figures: Mapping[str, float]) -> None:
        """Write the file, its card and its figures, of which there are some more now."""
        outcome = replace(self.outcome, metrics={**self.outcome.metrics, **figures})
        split = {"fold": self.settings.fold, "folds": self.settings.folds, "seed": self.settings.loop.seed}
        with atomic_path(self.out / FILE) as file:
            save_pair_classifier(self.network, file, notes={**outcome.facts(), **split, "threshold": threshold})
        write_result(self.out, outcome, self.settings)


def _train(
    runs: Sequence[tuple[Path, Path]],
    out: Path,
    settings: PairTraining,
    log: TrainingLog,
    progress: Progress | None,
) -> Path:
    labelled, places = read_labelled_pairs(runs), {settings.fold: out}
    if settings.cross_validated:
        places |= {fold: out / "folds" / str(fold) for fold in range(settings.folds) if fold != settings.fold}
    trained = [
        _train_fold(
            labelled, place, settings.model_copy(update={"fold": fold}), log if place == out else SilentLog(), progress
        )
        for fold, place in places.items()
    ]
    if not is_first_process():
        return out / FILE
    networks = {one.settings.fold: one.network for one in trained}
    judged = [
        pair
        for pair in labelled.pairs
        if fold_of(pair.query, settings.folds, settings.loop.seed) in networks
        and (pair.run < settings.threshold_runs or not settings.threshold_runs)
    ]
    labels, chances = labels_of(judged), _out_of_fold(networks, judged, settings.folds, settings.loop.seed)
    threshold, figures = safe_threshold(chances, labels), pair_metrics(chances, labels)
    told = {f"out_of_fold_{name}": value for name, value in figures.items()} if settings.cross_validated else {}
    for one in trained:
        one.keep(threshold, told)
    return out / FILE


def _train_fold(
    labelled: LabelledPairs, out: Path, settings: PairTraining, log: TrainingLog, progress: Progress | None
) -> _Trained:
    """Train without the queries of the fold that `settings` tell."""
    device, seed = training_device(settings.loop), settings.loop.seed
    learned, kept_out = labelled.split(settings.fold, settings.folds, seed)
    network = starting_network(settings)
    canvas = network.config.canvas
    examples = PairExamples(
        MatrixSource.of(learned, settings.synthetic_share, settings.true_share),
        settings.examples_per_epoch,
        canvas or settings.side,
        drawn=2 * canvas if canvas else settings.side,
        seed=seed,
    )
    fingerprint = digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE, **DECIDED_LATER}), labelled.digest)
    result = fit(
        PairModule(network, cell_weight=settings.cell_weight).to(memory_format=torch.channels_last),
        examples,
        PairValidation(tuple(kept_out)).metrics,
        settings.loop,
        TrainingContext(out, fingerprint, device, log, progress),
        score=SCORE,
    )
    outcome = TrainingResult(
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
    return _Trained(as_stored(result.network), out, settings, outcome)


def as_stored(network: PairNetwork) -> PairNetwork:
    """Return the network that comes back from its file: half precision may move the pair that a threshold hangs on."""
    with TemporaryDirectory() as folder:
        return load_pair_classifier(save_pair_classifier(network, Path(folder) / FILE))


def starting_network(settings: PairTraining) -> PairNetwork:
    """Return the network before its training, on the CPU; raises `ConfigError` when its start does not fit."""
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


def out_of_fold_probabilities(
    files: Sequence[Path], runs: Sequence[tuple[Path, Path]]
) -> list[tuple[LabelledPair, float]]:
    """Return every pair of the runs with the probability by the classifier that has not learned from its query.

    `files` are one classifier per fold; the runs may be others than those learned from, of the same queries. Raises
    `ConfigError` for files that are no classifiers or do not make up one set of folds, and errors as of
    `read_labelled_pairs`.
    """
    try:
        with ExitStack() as copies:
            local = [copies.enter_context(local_copy(file)) for file in files]
            notes = [read_header(file, KIND)["notes"] for file in local]
            networks = [load_pair_classifier(file) for file in local]
    except ModelFileError as error:
        raise ConfigError(str(error)) from error
    told = {(note.get("folds"), note.get("seed")) for note in notes}
    folds, seed = told.pop() if len(told) == 1 else (0, 0)
    if not folds or sorted(note["fold"] for note in notes) != list(range(folds)):
        raise ConfigError(
            f"{len(files)} classifiers do not make up one set of folds; train them with cross_validated=true, or one "
            "for each fold=0, 1, … with the same folds and loop.seed"
        )
    pairs = read_labelled_pairs(runs).pairs
    of_fold = {note["fold"]: network for note, network in zip(notes, networks, strict=True)}
    return list(zip(pairs, _out_of_fold(of_fold, pairs, folds, seed).tolist(), strict=True))


def _out_of_fold(networks: Mapping[int, PairNetwork], pairs: Sequence[LabelledPair], folds: int, seed: int) -> Floats:
    """Return the probability of each pair by the network of its own fold, which was kept out of that."""
    found = np.zeros(len(pairs), np.float32)
    home = np.array([fold_of(pair.query, folds, seed) for pair in pairs])
    for fold, network in networks.items():
        rows = np.flatnonzero(home == fold).tolist()
        found[rows] = probabilities(network, [pairs[row] for row in rows])
    return found
