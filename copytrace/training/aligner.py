"""Training of the aligner's network on the matrices of finished runs and on synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from configs.training import AlignerTraining
from copytrace.errors import ConfigError
from copytrace.step import Progress
from copytrace.storage import atomic_path, digest_of, open_output
from copytrace.training.aligner_module import AlignerModule, AlignerNetwork
from copytrace.training.aligner_validation import AlignerValidation
from copytrace.training.distributed import is_first_process, launch
from copytrace.training.initial_weights import MAY_CHANGE, resolve_start, training_device
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import TrainingContext, fit
from copytrace.training.matrices import read_labeled_pairs
from copytrace.training.matrix_examples import AlignerExamples, MatrixSource
from copytrace.training.matrix_sheet import matrix_sheet, similarity_picture
from copytrace.training.training_result import TrainingResult, write_result
from models.aligner_network import build_aligner_network
from models.configs import AlignerConfig, ModelFileError
from models.network_files import load_aligner_network, save_aligner

FILE = "aligner.safetensors"
SCORE = "segment_ap"
SAMPLES_SHOWN = 32


def train_aligner(
    runs: Sequence[tuple[Path, Path]],
    out: str | Path,
    settings: AlignerTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on the pairs of finished runs (see `read_labeled_pairs`) and return `out/aligner.safetensors`.

    `runs` are pairs of a `match-videos` output folder and its ground truth. With runs of several descriptors, the
    network does not depend on one of them. The queries of one fold validate and are not learned from. `out` also gets
    `history.jsonl`, `result.json`, `README.md` and `checkpoint.pt`, from which the same call continues after a crash.
    With `loop.devices` over 1 there is a process per GPU.

    Raises `InputError` for runs that cannot be used, `ConfigError` for settings that do not fit or a folder of another
    run, and `CopytraceError` when the loss is not finite.
    """
    with open_output(out) as folder:
        return launch(_train, runs, folder, settings, log or SilentLog(), progress, devices=settings.loop.devices)


def _train(
    runs: Sequence[tuple[Path, Path]],
    out: Path,
    settings: AlignerTraining,
    log: TrainingLog,
    progress: Progress | None,
) -> Path:
    device = training_device(settings.loop)
    labeled = read_labeled_pairs(runs)
    training, held_out = labeled.split(settings.fold, settings.folds, settings.loop.seed)
    validation = AlignerValidation.select(held_out, settings.validation_pairs)
    source = MatrixSource.from_pairs(training, settings.synthetic_share, settings.true_share)
    examples = AlignerExamples(source, settings.examples_per_epoch, settings.side, settings.loop.seed)
    module = AlignerModule(
        initial_network(settings), positive_weight=settings.positive_weight, dice_weight=settings.dice_weight
    )
    if is_first_process():
        log.picture("matrices", examples_sheet(examples), 0)
    fingerprint = digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE}), labeled.digest)
    result = fit(
        module.to(memory_format=torch.channels_last),
        examples,
        validation.metrics,
        settings.loop,
        TrainingContext(out, fingerprint, device, log, progress),
        score=SCORE,
    )
    if not is_first_process():
        return out / FILE
    log.picture("heat maps", validation.sheet(result.network), result.epoch)
    training_result = TrainingResult(
        title="Copytrace aligner",
        metrics=result.metrics,
        score=SCORE,
        best_epoch=result.epoch,
        images=len(training),
        validation_images=len(validation.pairs),
        dataset_digest=labeled.digest,
        validation_digest=digest_of(
            labeled.digest, settings.fold, settings.folds, settings.loop.seed, settings.validation_pairs
        ),
        seconds=round(result.seconds, 1),
        device=str(device),
        settings=settings.model_dump(mode="json"),
        unit="pairs of videos",
    )
    with atomic_path(out / FILE) as file:
        save_aligner(result.network, file, notes=training_result.facts())
    write_result(out, training_result, settings)
    return out / FILE


def initial_network(settings: AlignerTraining) -> AlignerNetwork:
    """Return the network before its training, on the CPU. Raises `ConfigError` when its start does not fit."""
    torch.manual_seed(settings.loop.seed)
    if settings.start == "random":
        return build_aligner_network(AlignerConfig(settings.backbone))
    try:
        network = load_aligner_network(resolve_start(settings.start, "aligner"))
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    if network.config.backbone != settings.backbone:
        raise ConfigError(f"{settings.start} holds a {network.config.backbone}; set backbone to that")
    return network


def examples_sheet(examples: AlignerExamples) -> NDArray[np.uint8]:
    """Return a sheet, uint8 [H, W, 3], of the first examples: matrix and label."""
    rows = []
    for index in range(min(SAMPLES_SHOWN, len(examples))):
        parts = {name: part.astype(np.float32) for name, part in examples.example(0, index).items()}
        outside = 1 - parts["inside"]  # white
        rows.append((similarity_picture(parts["matrix"]) + outside, parts["label"] + outside))
    return matrix_sheet(rows)
