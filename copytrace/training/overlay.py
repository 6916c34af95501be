"""Training of the overlay detector on composites made on the fly, from photos to a file for matching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from configs.training import OverlayTraining
from copytrace.errors import ConfigError
from copytrace.step import Progress
from copytrace.storage import atomic_path, digest_of, open_output
from copytrace.training.composites import Composites
from copytrace.training.distributed import is_first_process, launch
from copytrace.training.initial_weights import MAY_CHANGE, freeze, packaged_weights, resolve_start, training_device
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import TrainingContext, fit
from copytrace.training.overlay_module import OverlayModule
from copytrace.training.overlay_validation import OverlayValidation, match_boxes, picture_sheet, precision_threshold
from copytrace.training.photos import split_photos
from copytrace.training.training_result import TrainingResult, write_result
from models.configs import IMAGENET_MEAN, IMAGENET_STD, ModelFileError, OverlayConfig
from models.efficientnet_lite import load_backbone
from models.network_files import load_overlay, save_overlay
from models.overlay_network import OverlayNetwork, build_overlay

FILE = "overlay.safetensors"
SCORE = "ap50"
SAMPLES_SHOWN = 32
# Precision on validation composites of the boxes with a confidence of 0.5 or more. It has a margin over the 0.9 that
# matching expects, as the threshold is fitted to the validation set.
PRECISION = 0.93


def train_overlay_detector(
    photos: str,
    out: str | Path,
    settings: OverlayTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on composites of `photos` (see `list_media`) and return `out/overlay.safetensors`.

    `out` also gets `history.jsonl` (a line per epoch), `result.json` (metrics of the best network, digests of the
    photos) and `checkpoint.pt`, from which the same call continues after a crash. With `loop.devices` over 1
    there is a process per GPU.

    Raises `InputError` for too few photos, `ConfigError` for settings that do not fit or a folder of another run, and
    `CopytraceError` when the loss is not finite.
    """
    with open_output(out) as folder:
        return launch(_train, photos, folder, settings, log or SilentLog(), progress, devices=settings.loop.devices)


def _train(photos: str, out: Path, settings: OverlayTraining, log: TrainingLog, progress: Progress | None) -> Path:
    device = training_device(settings.loop)
    split = split_photos(photos, settings.photos)
    size, long_side, share = settings.input_size, settings.photos.long_side, settings.overlay_share
    validation = OverlayValidation.create(
        split.validation,
        settings.validation_composites,
        input_size=settings.detected_size,
        long_side=long_side,
        share=share,
    )
    examples = Composites(split.train, settings.examples_per_epoch, size, long_side, share, settings.loop.seed)
    network = initial_network(settings)
    freeze(network.backbone, 0 if settings.start == "random" else settings.frozen_blocks)
    if is_first_process():
        log.picture("composites", picture_sheet(*_first_examples(examples)), 0)
    fingerprint = digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE}), split.digest, validation.digest)
    result = fit(
        OverlayModule(network).to(memory_format=torch.channels_last),
        examples,
        validation.metrics,
        settings.loop,
        TrainingContext(out, fingerprint, device, log, progress),
        score=SCORE,
    )
    if not is_first_process():
        return out / FILE
    kept = calibrate_confidence(result.network, validation)
    log.picture("mistakes", validation.mistakes(kept), result.epoch)
    training_result = TrainingResult(
        title="Copytrace overlay detector",
        metrics=validation.metrics(kept),
        score=SCORE,
        best_epoch=result.epoch,
        images=len(split.train),
        validation_images=len(split.validation),
        dataset_digest=split.digest,
        validation_digest=validation.digest,
        seconds=round(result.seconds, 1),
        device=str(device),
        settings=settings.model_dump(mode="json"),
    )
    kept.resize(settings.detected_size)
    with atomic_path(out / FILE) as file:
        save_overlay(kept, file, notes=training_result.facts())
    write_result(out, training_result, settings)
    return out / FILE


def initial_network(settings: OverlayTraining) -> OverlayNetwork:
    """Return the network before its training, on the CPU.

    Raises `ConfigError` when `settings.start` does not fit the architecture.
    """
    torch.manual_seed(settings.loop.seed)
    if settings.start not in {"imagenet", "random"}:
        network = _load_start(resolve_start(settings.start, "overlay"), settings)
    elif settings.start == "random":
        config = OverlayConfig(settings.architecture, settings.input_size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        network = _build(config)
        network.frozen_statistics = False
    else:
        packaged = packaged_weights(settings.architecture, settings.input_size)
        network = _build(
            OverlayConfig(packaged.architecture, settings.input_size, mean=packaged.mean, std=packaged.std)
        )
        tensors = load_backbone(packaged.weights).state_dict()
        network.backbone.load_state_dict({name: tensors[name] for name in network.backbone.state_dict()})
    return network


def calibrate_confidence(network: OverlayNetwork, validation: OverlayValidation) -> OverlayNetwork:
    """Shift the confidences so that the boxes of 0.5 and more have the precision `PRECISION`; return `network`."""
    correct, confidence = match_boxes(validation.find(network), validation.truths, 0.5)
    threshold = torch.tensor(precision_threshold(correct, confidence, PRECISION), dtype=torch.float64)
    with torch.no_grad():
        network.confidence_shift -= torch.logit(threshold, eps=1e-4).float().to(network.confidence_shift.device)
    return network


def _load_start(path: Path, settings: OverlayTraining) -> OverlayNetwork:
    try:
        network = load_overlay(path, partly=True)
    except ModelFileError as error:
        raise ConfigError(f"start: {error}") from error
    if network.config.architecture != settings.architecture:
        raise ConfigError(f"{path} holds a {network.config.architecture}; set architecture to that")
    network.resize(settings.input_size)
    torch.nn.init.zeros_(network.confidence_shift)
    return network


def _build(config: OverlayConfig) -> OverlayNetwork:
    try:
        return build_overlay(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _first_examples(examples: Composites) -> tuple[np.ndarray, list[np.ndarray]]:
    shown = [examples.example(0, index) for index in range(min(SAMPLES_SHOWN, len(examples)))]
    return np.stack([example["image"] for example in shown]), [example["boxes"] for example in shown]
