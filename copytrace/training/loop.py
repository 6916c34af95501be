"""The loop that trains every network: AdamW, warm-up and cosine, averaged weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs.training import LoopSettings
from copytrace.errors import ConfigError, CopytraceError
from copytrace.step import Progress, SilentProgress
from copytrace.training.batches import Examples, iterate_batches, steps_per_epoch
from copytrace.training.checkpoint import read_checkpoint, write_checkpoint
from copytrace.training.distributed import broadcast, in_group, is_first_process, rank, world_size
from copytrace.training.log import SilentLog, TrainingLog, append_history
from copytrace.training.precision import Precision, is_compiled

N = TypeVar("N", bound=nn.Module)

logger = logging.getLogger(__name__)

LEAST_BATCH = 2  # examples: a contrastive loss needs two


class TrainingModule(nn.Module, Generic[N]):
    """A network with its losses: `forward(batch)` returns named scalars, of which `loss` is minimized.

    Everything that must survive a restart is a parameter or a persistent buffer.
    """

    network: N
    """The network that is averaged, validated and kept."""

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn at `backbone_rate` times the learning rate."""
        return []

    def start_step(self, epoch: int, step: int) -> None:
        """Receive the number of the next step; called before each."""


@dataclass(frozen=True)
class TrainingContext:
    """Where a training runs and reports.

    `out` is its folder. `fingerprint` is a digest of the settings and data that decide its weights: a checkpoint is
    continued only under the same one.
    """

    out: Path
    fingerprint: str
    device: torch.device
    log: TrainingLog = field(default_factory=SilentLog)
    progress: Progress | None = None


@dataclass
class FitResult(Generic[N]):
    """The averaged network of the epoch with the best validation, that epoch, its metrics, and the seconds of all."""

    network: N
    epoch: int
    metrics: dict[str, float]
    seconds: float


@dataclass
class _Position:
    """How far a run is: whole epochs, steps of the next one, seconds, sums of its losses, and the best network."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


def fit(
    module: TrainingModule[N],
    examples: Examples,
    validate: Callable[[N], dict[str, float]],
    settings: LoopSettings,
    context: TrainingContext,
    *,
    score: str,
) -> FitResult[N]:
    """Train, and return the network of the epoch with the highest `score` among the metrics of `validate`.

    `checkpoint.pt` in the output folder is written after each epoch and every `checkpoint_minutes`. The same call
    continues from it, and on one CPU thread ends with the same weights as without the interruption. `history.jsonl` has
    a line per epoch. Every process of a distributed group calls this function; the first one validates, writes and
    logs.

    If CUDA's memory does not hold a batch, the batch is processed in halves, quarters and so on, whose gradients are
    summed. Losses that compare the examples of a batch then compare only those of one part.

    Raises `ConfigError` when the folder holds a run with another fingerprint or another network, and `CopytraceError`
    when the loss is not finite, or the memory does not hold two examples.
    """
    loop = _Loop(module.to(context.device), examples, settings, context.device)
    path = context.out / "checkpoint.pt"
    position = loop.resume(path, context.fingerprint)
    progress = context.progress if context.progress and is_first_process() else SilentProgress()
    with progress.step("train", settings.epochs * loop.steps, "steps") as step:
        step.advance(position.epoch * loop.steps + position.step)
        while position.epoch < settings.epochs:
            for _ in loop.run_epoch(position):
                step.advance()
                if loop.checkpoint_is_due(position):
                    loop.save(path, context.fingerprint, position)
            metrics = loop.metrics(position)
            position = _Position(position.epoch + 1, seconds=position.seconds, best=position.best)
            if position.epoch % settings.validate_every == 0 or position.epoch == settings.epochs:
                metrics |= loop.validate(validate, score, position)
            if is_first_process():
                append_history(context.out / "history.jsonl", metrics, position.epoch)
                context.log.metrics(metrics, position.epoch)
            loop.save(path, context.fingerprint, position)
    network = copy.deepcopy(loop.averaged)
    network.load_state_dict(position.best["network"])
    return FitResult(network.eval(), position.best["epoch"], position.best["metrics"], position.seconds)


class _Loop(Generic[N]):
    """The state of a training: weights, their average, the optimizer, and the batches to come."""

    def __init__(
        self, module: TrainingModule[N], examples: Examples, settings: LoopSettings, device: torch.device
    ) -> None:
        self.module, self.examples, self.settings, self.device = module, examples, settings, device
        self.precision = Precision(settings.precision, device)
        self.steps = steps_per_epoch(examples, settings)
        self._waiting_seconds = self._working_seconds = 0.0
        self._parts = 1
        self._first_step, self._last_save = 0, time.monotonic()
        self._batches: Iterator[dict[str, Tensor]] | None = None
        pretrained = {id(parameter) for parameter in module.pretrained_parameters()}
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if id(p) not in pretrained], "share": 1.0},
            {"params": [p for p in trainable if id(p) in pretrained], "share": settings.backbone_rate},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        average = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(module.network, multi_avg_fn=average, use_buffers=False)
        self._runnable: nn.Module = module
        if world_size() > 1:
            self._runnable = in_group(module)
        if is_compiled(settings.compile, device):
            self._runnable = torch.compile(self._runnable)  # type: ignore[assignment]

    @property
    def averaged(self) -> N:
        """Network with averaged weights."""
        return cast(N, self._average.module)

    def run_epoch(self, position: _Position) -> Iterator[None]:
        """Train from `position` to the end of its epoch; yield after each step, with `position` behind that step."""
        if self._batches is None:
            self._batches = iterate_batches(self.examples, self.settings, position.epoch, position.step)
        self._waiting_seconds, self._working_seconds, self._first_step = 0.0, 0.0, position.step
        while position.step < self.steps:
            begin = time.monotonic()
            batch = next(self._batches)
            received = time.monotonic()
            losses = self._step(position.epoch, position.step, batch)
            position.sums = {name: position.sums.get(name, 0.0) + value for name, value in losses.items()}
            position.step += 1
            self._waiting_seconds += received - begin
            self._working_seconds += time.monotonic() - received
            position.seconds += time.monotonic() - begin
            yield

    def metrics(self, position: _Position) -> dict[str, float]:
        """Return the mean losses of an epoch, its speed, and the share of time spent waiting for data."""
        seconds = self._waiting_seconds + self._working_seconds
        images = self.settings.batch_size * world_size() * (self.steps - self._first_step)
        return {
            **{name: value / self.steps for name, value in position.sums.items()},
            "images_per_second": images / seconds,
            "share_of_time_waiting_for_data": self._waiting_seconds / seconds,
        }

    def checkpoint_is_due(self, position: _Position) -> bool:
        """Say whether to write a checkpoint within an epoch; never between steps whose gradients are summed."""
        late = time.monotonic() - self._last_save > self.settings.checkpoint_minutes * 60
        return late and position.step < self.steps and position.step % self.settings.accumulate == 0

    def _step(self, epoch: int, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        settings, overall_step = self.settings, epoch * self.steps + step
        torch.manual_seed(settings.seed * 1_000_003 + overall_step * world_size() + rank())
        self.module.train()
        self.module.start_step(epoch, step)
        is_update = (step + 1) % settings.accumulate == 0 or step + 1 == self.steps
        on_device = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        synchronization = nullcontext() if is_update or world_size() == 1 else self._runnable.no_sync()  # type: ignore[operator]
        with synchronization:
            losses = self._add_gradients(on_device)
        if is_update:
            self._update_weights(overall_step)
        if not math.isfinite(losses["loss"]):
            raise CopytraceError(
                f"the loss became {losses['loss']} in step {step + 1} of epoch {epoch + 1}; start again in another "
                "folder with a lower loop.learning_rate, or with loop.precision=float32"
            )
        return losses

    def _add_gradients(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Run the module forward and backward, in as many parts as the device's memory requires; return its losses."""
        while True:
            try:
                return self._run_parts(batch)
            except torch.OutOfMemoryError as error:
                self._halve_parts(max(map(len, batch.values())), error)

    def _run_parts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        means: dict[str, float] = {}
        pieces = zip(*(value.chunk(self._parts) for value in batch.values()), strict=True)
        for piece in pieces:
            share = len(piece[0]) / max(map(len, batch.values()))
            with self.precision.autocast():
                losses: dict[str, Tensor] = self._runnable(dict(zip(batch, piece, strict=True)))
            self.precision.backward(losses["loss"] * share / self.settings.accumulate)
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) * share
        return means

    def _halve_parts(self, size: int, error: Exception) -> None:
        half = size // (2 * self._parts)
        if half < LEAST_BATCH or world_size() > 1:  # the processes must all do the same
            raise CopytraceError(
                f"{self.device} has too little free memory for a batch of {size // self._parts}; stop other programs "
                f"there, or give loop.batch_size={size // 2} loop.accumulate={2 * self.settings.accumulate}"
            ) from error
        self._parts *= 2
        self.optimizer.zero_grad()  # those of earlier parts and, once, of earlier batches that loop.accumulate sums
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("%s ran out of memory; continuing with batches in parts of %d", self.device, half)

    def _update_weights(self, overall_step: int) -> None:
        factor = rate_factor(overall_step + 1, self.settings, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * group["share"] * factor
        self.precision.step(self.optimizer, self.module.parameters(), self.settings.clip_norm)
        self._average.update_parameters(self.module.network)

    def validate(self, validate: Callable[[N], dict[str, float]], score: str, position: _Position) -> dict[str, float]:
        """Return the metrics of the averaged network, and keep the network in `position` if it is the best so far."""
        metrics: dict[str, float] = {}
        if is_first_process():
            self.averaged.eval()
            with torch.inference_mode():
                values = validate(self.averaged)
            metrics = {name: float(value) for name, value in values.items()}  # a checkpoint holds no numpy numbers
            if not position.best or metrics[score] > position.best["metrics"][score]:
                state = {name: value.detach().cpu().clone() for name, value in self.averaged.state_dict().items()}
                position.best = {"network": state, "epoch": position.epoch, "metrics": metrics}
        position.best = broadcast(position.best)
        return metrics

    def resume(self, path: Path, fingerprint: str) -> _Position:
        """Load a checkpoint, if there is one, and return its position."""
        state = read_checkpoint(path, fingerprint, self.device)
        if state is None:
            return _Position()
        try:
            self.module.load_state_dict(state["module"])
            self._average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.load_state(state["precision"])
            return _Position(**state["position"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} holds another network than this version trains; remove it, or give another folder"
            ) from error

    def save(self, path: Path, fingerprint: str, position: _Position) -> None:
        """Write a checkpoint atomically."""
        self._last_save = time.monotonic()
        if is_first_process():
            state = {
                "module": self.module.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.precision.state(),
                "position": vars(position),
            }
            write_checkpoint(path, fingerprint, state)


def rate_factor(step: int, settings: LoopSettings, steps: int) -> float:
    """Return the learning rate of a step, counted from 1, as a share of its peak: linear warm-up, cosine to zero."""
    warmup, total = settings.warmup_epochs * steps, settings.epochs * steps
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
