"""Checks of the trainings on a GPU: precision, compilation, processes, too little memory, and steps of all trainers."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.utils.data import default_collate

from benchmarks.gpu_check import Check, Finding, Target
from benchmarks.gpu_networks import flops, matrix_product, matrix_with_copy
from configs.load import load_settings
from configs.training import AlignerTraining, DescriptorTraining, LoopSettings, OverlayTraining, PairTraining
from copytrace.synthesis.sample_photos import sample_photos
from copytrace.synthesis.synthetic_matrices import SyntheticMatrices
from copytrace.training import aligner, overlay, pair_classifier
from copytrace.training.aligner_module import AlignerModule
from copytrace.training.batches import Examples
from copytrace.training.composites import Composites
from copytrace.training.contrastive import ContrastiveModule
from copytrace.training.distributed import backend_of_groups, in_group
from copytrace.training.initial_weights import packaged_weights
from copytrace.training.loop import TrainingContext, TrainingModule, fit
from copytrace.training.matrix_examples import AlignerExamples, MatrixSource, PairExamples
from copytrace.training.overlay_module import OverlayModule
from copytrace.training.photos import TrainingPhoto
from copytrace.training.precision import Precision
from copytrace.training.views import ViewExamples
from models.descriptor import build_descriptor

STEPS, COUNTED = 6, 3  # steps of a training, and the last ones, which are timed: the first ones compile
DISTINCT = 16  # examples that are made; the others repeat them

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Training:
    """A module with its examples and the loop's settings."""

    module: TrainingModule[Any]
    examples: Examples
    loop: LoopSettings

    def batch(self, count: int) -> Batch:
        """Return the first examples as a batch."""
        batch: Batch = default_collate([self.examples.example(0, index) for index in range(count)])
        return batch


@dataclass(frozen=True)
class Repeated:
    """`Examples` of which only the first ones are made; numbers of photos are those of the examples."""

    examples: Examples
    count: int
    made: dict[int, dict[str, NDArray[np.generic]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[np.generic]]:
        """Return an example, made once."""
        known = index % min(DISTINCT, len(self.examples))
        if known not in self.made:
            self.made[known] = self.examples.example(0, known)
        numbers = {
            name: np.full_like(self.made[known][name], index) for name in ("photo", "group") if name in self.made[known]
        }
        return self.made[known] | numbers


def trainings(target: Target) -> dict[str, Callable[[], Training]]:
    """Return the trainers with the presets `a100`; on the CPU with small pictures and batches."""
    on = [] if target.on_gpu else ["loop.batch_size=4", "loop.accumulate=1"]
    photos = [TrainingPhoto(photo.id, str(photo.path), photo.id) for photo in sample_photos()]
    matrices = MatrixSource((), (), SyntheticMatrices([matrix_with_copy(90, 90, 0.0).values]), 1.0, 0.0)

    def descriptor() -> Training:
        small = [] if target.on_gpu else ["input_size=64", "described_size=64", "memory=64", "dimensions=32"]
        settings = load_settings(DescriptorTraining, "a100", overrides=[*on, *small])
        network = build_descriptor(packaged_weights(settings.architecture, settings.input_size))
        torch.manual_seed(0)
        network.projection = nn.Linear(network.pooled_dimensions, settings.dimensions)
        views = ViewExamples(photos, settings.views, settings.input_size, settings.photos.long_side, 0)
        return _training(ContrastiveModule(network, settings), views, settings.loop)

    def overlay_detector() -> Training:
        small = [] if target.on_gpu else ["input_size=64", "detected_size=64"]
        settings = load_settings(OverlayTraining, "a100", overrides=[*on, *small])
        composites = Composites(photos, 4 * DISTINCT, settings.input_size, settings.photos.long_side, 0.7, 0)
        return _training(OverlayModule(overlay.initial_network(settings)), composites, settings.loop)

    def aligners() -> Training:
        settings = load_settings(AlignerTraining, "a100", overrides=[*on, *([] if target.on_gpu else ["side=32"])])
        module = AlignerModule(aligner.initial_network(settings), positive_weight=3.0, dice_weight=0.5)
        return _training(module, AlignerExamples(matrices, 4 * DISTINCT, settings.side, 0), settings.loop)

    def pair_classifiers() -> Training:
        settings = load_settings(PairTraining, "a100", overrides=on)
        module = pair_classifier.PairModule(pair_classifier.initial_network(settings), cell_weight=3.0)
        examples = PairExamples(matrices, 4 * DISTINCT, settings.side, drawn=settings.side, seed=0)
        return _training(module, examples, settings.loop)

    return {
        "descriptor": descriptor,
        "overlay detector": overlay_detector,
        "aligner": aligners,
        "pair classifier": pair_classifiers,
    }


def _training(module: TrainingModule[Any], examples: Examples, loop: LoopSettings) -> Training:
    count = STEPS * loop.batch_size
    changed = loop.model_copy(update={"epochs": 1, "workers": 0, "warmup_epochs": 1.0})
    return Training(module.to(memory_format=torch.channels_last), Repeated(examples, count), changed)


def precision(target: Target) -> Iterator[Finding]:
    """Compare losses and gradients of a descriptor in half precision with those in float32."""
    training = trainings(target)["descriptor"]()
    batch = training.batch(8)
    exact = _gradients(training.module, batch, "float32", target)
    for name, most, least in (("bfloat16", 0.1, 0.9), ("float16", 0.02, 0.97)):
        found = _gradients(training.module, batch, name, target)
        yield Finding(f"{name}: loss beside float32", found[0] / exact[0], 1 - most, 1 + most)
        yield Finding(f"{name}: cosine of the gradients", _cosine(found[1], exact[1]), least)


def compilation(target: Target) -> Iterator[Finding]:
    """Compare the losses of compiled modules; on the CPU they are traced, but not compiled."""
    for name, make in trainings(target).items():
        if name == "overlay detector":  # it draws boxes at random, and compiled code draws others
            continue
        training = make()
        batch = training.batch(4)
        plain = _gradients(training.module, batch, "float32", target)[0]
        compiled = torch.compile(copy.deepcopy(training.module), backend="inductor" if target.on_gpu else "eager")
        found = _gradients(compiled, batch, "float32", target)[0]
        yield Finding(f"{name}: loss beside that without", found / plain, 0.999, 1.001)
    torch.compiler.reset()


def processes(target: Target) -> Iterator[Finding]:
    """Compare gradients in a group of one process, by the collectives of several, with those without a group."""
    training = trainings(target)["descriptor"]()
    batch = training.batch(8)
    exact = _gradients(training.module, batch, "float32", target)
    with _group_of_one(target):
        together = in_group(training.module.to(target.device))
        found = _gradients(together, batch, "float32", target)
        gathered = torch.ones(3, 2, device=target.device)
        distributed.all_reduce(gathered)
    yield Finding("loss beside that of one process", found[0] / exact[0], 0.9999, 1.0001)
    yield Finding("cosine of the gradients", _cosine(found[1], exact[1]), 0.9999)
    yield Finding("sum over the group", float(gathered.mean()), 1.0, 1.0)


def steps(target: Target) -> Iterator[Finding]:
    """Run steps of each training, and measure them beside the product of matrices of the same type."""
    limit = matrix_product(target, torch.bfloat16 if target.on_gpu else torch.float32)
    for name, make in trainings(target).items():
        training, clock = make(), _Clock()
        operations = _operations(training, target) * training.loop.batch_size
        if target.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        context = TrainingContext(
            Path(tempfile.mkdtemp(dir=target.work)), name, torch.device(target.device), progress=clock
        )
        fit(training.module, training.examples, lambda network: {"score": 0.0}, training.loop, context, score="score")
        spent = statistics.median(np.diff(clock.times)[-COUNTED:])
        yield Finding(f"{name}: examples/s", training.loop.batch_size / spent)
        yield Finding(f"{name}: share of the limit", operations / spent / limit / 1e12)
        if target.on_gpu:
            yield Finding(f"{name}: GiB", torch.cuda.max_memory_reserved() / 2**30)
        torch.compiler.reset()


def halved_batches(target: Target) -> Iterator[Finding]:
    """Train with memory for a part of a batch: the loop must halve it until it fits."""
    target.require_gpu()
    make = trainings(target)["aligner"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    needed, averages = 0.0, []
    for share in (1.0, 0.6):
        training = make()
        loop = training.loop.model_copy(update={"compile": "off"})
        folder = Path(tempfile.mkdtemp(dir=target.work))
        context = TrainingContext(folder, "halved", torch.device(target.device))
        try:
            torch.cuda.set_per_process_memory_fraction(share * needed if needed else 1.0)
            fit(training.module, training.examples, lambda network: {"score": 0.0}, loop, context, score="score")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        needed = torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        averages.append(torch.load(folder / "checkpoint.pt", weights_only=True)["average"])
    gaps = [float((averages[0][name] - averages[1][name]).abs().max()) for name in averages[0]]
    yield Finding("most difference of an averaged weight", max(gaps), most=0.05)


class _Clock:
    """A progress that notes when each step of a training ended."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[_Clock]:
        yield self

    def advance(self, count: int = 1) -> None:
        self.times += [time.perf_counter()] * bool(count)


def _gradients(module: nn.Module, batch: Batch, name: str, target: Target) -> tuple[float, Tensor]:
    """Return the loss of a batch and the gradients of all weights as one vector; the module is left as it was."""
    module = copy.deepcopy(module) if isinstance(module, TrainingModule) else module
    module.to(target.device).train()
    numeric = Precision(name, torch.device(target.device))
    with numeric.autocast():
        loss = module({key: value.to(target.device) for key, value in batch.items()})["loss"]
    loss.backward()  # without the scaling of float16: losses here are near 1
    parts = [each.grad.flatten() for each in module.parameters() if each.grad is not None]
    return float(loss.detach()), torch.cat(parts).double().cpu()


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def _operations(training: Training, target: Target) -> float:
    """Return the floating-point operations of an example, forward and backward."""
    module, batch = copy.deepcopy(training.module).to(target.device).train(), training.batch(2)
    on_device = {key: value.to(target.device) for key, value in batch.items()}

    def step() -> None:
        module(on_device)["loss"].backward()

    return flops(step, training=True) / 2


@contextmanager
def _group_of_one(target: Target) -> Iterator[None]:
    with tempfile.TemporaryDirectory(dir=target.work) as folder:
        rendezvous = f"file://{folder}/rendezvous"
        distributed.init_process_group(backend_of_groups(), init_method=rendezvous, rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


CHECKS: dict[str, Check] = {
    "half precision": precision,
    "torch.compile": compilation,
    "a group of processes": processes,
    "training steps": steps,
    "training with too little memory": halved_batches,
}
