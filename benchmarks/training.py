"""Speed of training and of its two parts, making examples and the network's steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import default_collate

from benchmarks.evaluation_sets import read_set
from benchmarks.results import Row, Section
from configs.load import load_settings
from configs.training import DescriptorTraining, LoopSettings, OverlayTraining
from copytrace.synthesis.sample_photos import sample_photos
from copytrace.training.batches import Examples
from copytrace.training.composites import Composites
from copytrace.training.contrastive import ContrastiveModule
from copytrace.training.initial_descriptor import initial_network as starting_descriptor
from copytrace.training.initial_weights import freeze
from copytrace.training.loop import TrainingContext, TrainingModule, fit
from copytrace.training.overlay import initial_network as starting_detector
from copytrace.training.overlay_module import OverlayModule
from copytrace.training.photos import TrainingPhoto, split_photos
from copytrace.training.views import ViewExamples

STEPS = 8


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Train both networks for a few steps, on one core, on sample photographs or the references of a set of images."""
    torch.set_num_threads(1)
    sets = [each for each in map(read_set, given) if each.medium == "images"]
    source = str(sets[0].references) if sets else _samples(work)
    rows = []
    for name, examples, trainee, loop in (_descriptor(source), _detector(source)):
        made, (steps, whole) = _make_examples(examples), _train(trainee, examples, loop, work / name)
        bound = min(made, steps)
        figures = {
            "examples made": made,
            "steps alone": steps,
            "whole loop": whole,
            "share of the slower": whole / bound,
        }
        rows.append(Row(name, figures))
    return [Section("Speed of training", "Examples per second of one core, and of one process that makes them.", rows)]


def _descriptor(source: str) -> tuple[str, Examples, TrainingModule[nn.Module], LoopSettings]:
    settings = load_settings(DescriptorTraining)
    split = split_photos(source, settings.photos)
    network = starting_descriptor(settings, split)
    freeze(network.backbone, settings.frozen_blocks)
    photos = _repeat_photos(split.train, settings.loop)
    examples = ViewExamples(photos, settings.views, settings.input_size, settings.photos.long_side, settings.loop.seed)
    return "descriptor", examples, ContrastiveModule(network, settings), _shorten(settings.loop)


def _detector(source: str) -> tuple[str, Examples, TrainingModule[nn.Module], LoopSettings]:
    settings = load_settings(OverlayTraining)
    split = split_photos(source, settings.photos)
    network = starting_detector(settings)
    freeze(network.backbone, settings.frozen_blocks)
    count = STEPS * settings.loop.batch_size
    examples = Composites(
        split.train, count, settings.input_size, settings.photos.long_side, settings.overlay_share, settings.loop.seed
    )
    return "overlay detector", examples, OverlayModule(network), _shorten(settings.loop)


def _make_examples(examples: Examples) -> float:
    begin = time.perf_counter()
    for index in range(len(examples)):
        examples.example(1, index)
    return len(examples) / (time.perf_counter() - begin)


def _train(
    trainee: TrainingModule[nn.Module], examples: Examples, loop: LoopSettings, out: Path
) -> tuple[float, float]:
    """Return the examples per second of bare steps on one ready batch, and of the second epoch of `fit`."""
    trainee.to(memory_format=torch.channels_last)
    batch = default_collate([examples.example(0, index) for index in range(loop.batch_size)])
    trainee.train()
    begin = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            begin = time.perf_counter()
        trainee(batch)["loss"].backward()
    steps = STEPS * loop.batch_size / (time.perf_counter() - begin)
    log = _Speeds()
    out.mkdir()
    validate: Callable[[nn.Module], dict[str, float]] = lambda network: {"none": 0.0}  # noqa: E731
    context = TrainingContext(out, "", torch.device("cpu"), log)
    fit(trainee, examples, validate, loop, context, score="none")
    return steps, log.speeds[-1]


class _Speeds:
    """A training log that keeps only the speed of each epoch."""

    def __init__(self) -> None:
        self.speeds: list[float] = []

    def metrics(self, values: dict[str, float], epoch: int) -> None:
        self.speeds.append(values["images_per_second"])

    def picture(self, name: str, pixels: object, epoch: int) -> None:
        """Ignore the picture."""


def _shorten(loop: LoopSettings) -> LoopSettings:
    return loop.model_copy(update={"epochs": 2, "workers": 1, "validate_every": 2, "checkpoint_minutes": 60.0})


def _repeat_photos(photos: list[TrainingPhoto], loop: LoopSettings) -> list[TrainingPhoto]:
    """Return the photos, repeated until they fill `STEPS` batches."""
    count = STEPS * loop.batch_size
    return (photos * (count // len(photos) + 1))[:count]


def _samples(folder: Path) -> str:
    lines = [f"{photo.id},{photo.path}" for photo in sample_photos()]
    manifest = folder / "photos.csv"
    manifest.write_text("\n".join(["id,path", *lines]) + "\n")
    return str(manifest)
