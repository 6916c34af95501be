"""Training of the global descriptor by SSCD's recipe (Pizzi et al., 2022), from photos to a file for matching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from configs.training import DescriptorTraining
from copytrace.arrays import Floats
from copytrace.errors import ConfigError
from copytrace.step import Progress
from copytrace.storage import atomic_path, digest_of, open_output
from copytrace.training.confirmed_pairs import ConfirmedPairs, read_confirmed_pairs
from copytrace.training.contrastive import ContrastiveModule
from copytrace.training.descriptor_validation import ValidationSet, describe
from copytrace.training.distributed import is_first_process, launch
from copytrace.training.initial_descriptor import check_architecture, describe_photos, fit_pca_layer, initial_network
from copytrace.training.initial_weights import MAY_CHANGE, freeze, training_device
from copytrace.training.log import SilentLog, TrainingLog
from copytrace.training.loop import FitResult, TrainingContext, fit
from copytrace.training.photos import PhotoSplit, split_photos
from copytrace.training.training_result import TrainingResult, write_result
from copytrace.training.views import ViewExamples
from models.descriptor import DescriptorNetwork
from models.network_files import save_descriptor

FILE = "descriptor.safetensors"
SAMPLES_SHOWN = 8
NOISE_NEIGHBORS = 10  # as in the score normalization of matching


def train_descriptor(
    photos: str,
    out: str | Path,
    settings: DescriptorTraining,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on `photos` (see `list_media`) and return `out/descriptor.safetensors`.

    `out` also gets `history.jsonl` (a line per epoch), `result.json` (metrics of the best network, digests of the
    photos) and `checkpoint.pt`, from which the same call continues after a crash. With `loop.devices` over 1
    there is a process per GPU.

    Raises `InputError` for too few photos, `ConfigError` for settings that do not fit or a folder of another run, and
    `CopytraceError` when the loss is not finite.
    """
    check_architecture(settings)
    with open_output(out) as folder:
        return launch(_train, photos, folder, settings, log or SilentLog(), progress, devices=settings.loop.devices)


def _train(photos: str, out: Path, settings: DescriptorTraining, log: TrainingLog, progress: Progress | None) -> Path:
    device = training_device(settings.loop)
    split = split_photos(photos, settings.photos)
    validation = ValidationSet.create(
        split.validation, split.train, settings.photos, settings.described_size, settings.interpolation
    )
    pairs = read_confirmed_pairs(settings.pairs, split) if settings.pairs else None
    check_negatives(settings, pairs)
    if pairs is not None:
        split = replace(split, digest=digest_of(split.digest, pairs.digest))
    examples = ViewExamples(
        split.train,
        settings.views,
        settings.input_size,
        settings.photos.long_side,
        settings.loop.seed,
        pairs,
        settings.interpolation,
    )
    network = initial_network(settings, split)
    if is_first_process():
        log.picture("views", _view_sheet(examples), 0)
    module = ContrastiveModule(network, settings)
    freeze(network.backbone, 0 if settings.start == "random" else settings.frozen_blocks)
    fingerprint = digest_of(settings.model_dump(exclude={"loop": MAY_CHANGE}), split.digest, validation.digest)
    context = TrainingContext(out, fingerprint, device, log, progress)
    module = module.to(memory_format=torch.channels_last)
    result = fit(module, examples, validation.metrics, settings.loop, context, score="micro_ap")
    if is_first_process():
        _write_descriptor(result, context, split, validation, settings)
    return out / FILE


def check_negatives(settings: DescriptorTraining, pairs: ConfirmedPairs | None) -> None:
    """Raise `ConfigError` if look-alikes were given and examples have no room for them."""
    if pairs is not None and len(pairs.lookalikes) and not settings.views.negatives:
        raise ConfigError(f"{settings.pairs} has pictures that only look alike; set views.negatives=1 or more")


def _write_descriptor(
    result: FitResult[DescriptorNetwork],
    context: TrainingContext,
    split: PhotoSplit,
    validation: ValidationSet,
    settings: DescriptorTraining,
) -> None:
    features = describe_photos(result.network, split.train, settings, settings.described_size)
    kept, metrics = choose_whitening(result.network, settings, features, validation, result.metrics)
    noise = typical_noise(kept, features, validation)
    context.log.picture("mistakes", validation.mistakes(kept), result.epoch)
    training_result = TrainingResult(
        title="Copytrace descriptor",
        metrics=metrics,
        score="micro_ap",
        best_epoch=result.epoch,
        images=len(split.train),
        validation_images=len(validation.references),
        dataset_digest=split.digest,
        validation_digest=validation.digest,
        seconds=round(result.seconds, 1),
        device=str(context.device),
        settings=settings.model_dump(mode="json"),
    )
    with atomic_path(context.out / FILE) as file:
        save_descriptor(
            kept.cpu(),
            file,
            architecture=settings.architecture,
            input_size=settings.described_size,
            interpolation=settings.interpolation,
            typical_noise=noise,
            notes=training_result.facts(),
        )
    write_result(context.out, training_result, settings)


def choose_whitening(
    network: DescriptorNetwork,
    settings: DescriptorTraining,
    features: Floats,
    validation: ValidationSet,
    metrics: dict[str, float],
) -> tuple[DescriptorNetwork, dict[str, float]]:
    """Fit a PCA whitening to the training photos; keep it if `settings.whitening` is "on" or it validates better."""
    if settings.whitening == "off":
        return network, metrics
    network.whitening = fit_pca_layer(features, settings.dimensions, whiten=True).to(next(network.parameters()).device)
    whitened_metrics = validation.metrics(network)
    if settings.whitening == "auto" and whitened_metrics["micro_ap"] <= metrics["micro_ap"]:
        network.whitening = None
        return network, metrics
    return network, whitened_metrics


def typical_noise(network: DescriptorNetwork, features: Floats, validation: ValidationSet) -> float:
    """Return the mean cosine of a validation copy to the ten nearest training photos.

    `features` are the vectors of the training photos before any whitening. Score normalization uses this level for
    small collections, whose own noise is too low.
    """
    noise = torch.from_numpy(features)
    if network.whitening is not None:
        noise = functional.normalize(network.whitening.cpu()(noise), dim=1).detach()
        network.whitening.to(next(network.backbone.parameters()).device)
    similarity = torch.from_numpy(describe(network, validation.copies)) @ noise.T
    return round(float(similarity.topk(min(NOISE_NEIGHBORS, len(noise)), dim=1).values.mean()), 4)


def _view_sheet(examples: ViewExamples) -> NDArray[np.uint8]:
    """Return a sheet, uint8 [H, W, 3], with the views of a photo in each row."""
    rows = [examples.example(0, index)["views"] for index in range(min(SAMPLES_SHOWN, len(examples)))]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows]).astype(np.uint8)
