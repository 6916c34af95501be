"""The loop that trains every network here: AdamW, warm-up and cosine, averaged weights, checkpoints to resume from."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from configs.training import LoopSettings
from copytrace.errors import ConfigError, CopytraceError
from copytrace.progress import Progress, SilentProgress
from copytrace.training.batches import Examples, iterate_batches, steps_per_epoch
from copytrace.training.checkpoint import read_checkpoint, write_checkpoint
from copytrace.training.distributed import broadcast, is_leader, rank, world_size
from copytrace.training.log import SilentLog, TrainingLog, append_history
from copytrace.training.precision import Precision

N = TypeVar("N", bound=nn.Module)

logger = logging.getLogger(__name__)

LEAST_BATCH = 2  # examples: contrast needs another one


class TrainingModule(nn.Module, Generic[N]):
    """A network with its losses: `forward(batch)` returns named scalars, of which `loss` is minimised.

    Whatever must survive a restart is a parameter or a persistent buffer.
    """

    network: N
    """What is averaged, validated and kept."""

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Parameters that learn at `backbone_rate` times the learning rate."""
        return []

    def start_step(self, epoch: int, step: int) -> None:
        """Hear which step comes, before each."""


@dataclass
class FitResult(Generic[N]):
    """The averaged network of the epoch that validated best, that epoch, its figures, and the seconds of all epochs."""

    network: N
    epoch: int
    metrics: dict[str, float]
    seconds: float


@dataclass
class _Place:
    """Where a run stands: whole epochs done, steps done in the next one, seconds spent, and what to remember."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)


def fit(
    trainee: TrainingModule[N],
    examples: Examples,
    validate: Callable[[N], dict[str, float]],
    settings: LoopSettings,
    out: Path,
    *,
    score: str,
    stamp: str,
    device: torch.device,
    log: TrainingLog | None = None,
    progress: Progress | None = None,
) -> FitResult[N]:
    """Train, and return the network of the epoch with the highest `score` among what `validate` returns.

    `out/checkpoint.pt` is written after each epoch and every `checkpoint_minutes`; the same call goes on from it, and
    on one CPU thread ends with the same weights as if it had not been interrupted. `out/history.jsonl` has a line per
    epoch. Every process of a distributed group calls this; the first one validates, writes and logs.

    Where CUDA's memory does not hold a batch, it goes through in halves, quarters and so on, whose gradients are
    summed; losses that compare the examples of a batch then see the others of their part only.

    Raises `ConfigError` when `out` holds a run with another `stamp` or another network, and `CopytraceError` when the
    loss is no number, or the memory does not hold two examples.
    """
    loop = _Loop(trainee.to(device), examples, settings, device)
    path, log = out / "checkpoint.pt", log or SilentLog()
    place = loop.resume(path, stamp)
    shown = progress if progress and is_leader() else SilentProgress()
    with shown.step("train", settings.epochs * loop.steps, "steps") as step:
        step.advance(place.epoch * loop.steps + place.step)
        while place.epoch < settings.epochs:
            for _ in loop.run_epoch(place):
                step.advance()
                if loop.is_due(place):
                    loop.save(path, stamp, place)
            metrics = loop.metrics(place)
            place = _Place(place.epoch + 1, seconds=place.seconds, best=place.best)
            if place.epoch % settings.validate_every == 0 or place.epoch == settings.epochs:
                metrics |= loop.validated(validate, score, place)
            if is_leader():
                append_history(out / "history.jsonl", metrics, place.epoch)
                log.metrics(metrics, place.epoch)
            loop.save(path, stamp, place)
    network = copy.deepcopy(loop.averaged)
    network.load_state_dict(place.best["network"])
    return FitResult(network.eval(), place.best["epoch"], place.best["metrics"], place.seconds)


class _Loop(Generic[N]):
    """The moving parts: weights, their average, the optimiser, and how far the learning rate has come."""

    def __init__(
        self, trainee: TrainingModule[N], examples: Examples, settings: LoopSettings, device: torch.device
    ) -> None:
        self.trainee, self.examples, self.settings, self.device = trainee, examples, settings, device
        self.precision = Precision(settings.precision, device)
        self.steps = steps_per_epoch(examples, settings)
        self._waited = self._worked = 0.0
        self._parts = 1
        self._first, self._saved = 0, time.monotonic()
        self._batches: Iterator[dict[str, Tensor]] | None = None
        pretrained = {id(parameter) for parameter in trainee.pretrained_parameters()}
        learning = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learning if id(p) not in pretrained], "share": 1.0},
            {"params": [p for p in learning if id(p) in pretrained], "share": settings.backbone_rate},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        average = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(trainee.network, multi_avg_fn=average, use_buffers=False)
        self._running: nn.Module = trainee
        if world_size() > 1:
            with warnings.catch_warnings():  # of a new name for this argument, which older torch does not know
                warnings.simplefilter("ignore", FutureWarning)
                self._running = DistributedDataParallel(trainee, broadcast_buffers=False)
        if settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda"):
            self._running = torch.compile(self._running)  # type: ignore[assignment]

    @property
    def averaged(self) -> N:
        """The network with averaged weights."""
        return cast(N, self._average.module)

    def run_epoch(self, place: _Place) -> Iterator[None]:
        """Train from `place` to the end of its epoch; yield after each step, when `place` is past it."""
        if self._batches is None:
            self._batches = iterate_batches(self.examples, self.settings, place.epoch, place.step)
        self._waited, self._worked, self._first = 0.0, 0.0, place.step
        while place.step < self.steps:
            begin = time.monotonic()
            batch = next(self._batches)
            arrived = time.monotonic()
            figures = self._step(place.epoch, place.step, batch)
            place.sums = {name: place.sums.get(name, 0.0) + value for name, value in figures.items()}
            place.step += 1
            self._waited += arrived - begin
            self._worked += time.monotonic() - arrived
            place.seconds += time.monotonic() - begin
            yield

    def metrics(self, place: _Place) -> dict[str, float]:
        """Return the means of an epoch's figures, how fast it went, and what share of the time went in waiting."""
        seconds = self._waited + self._worked
        images = self.settings.batch_size * world_size() * (self.steps - self._first)
        return {
            **{name: value / self.steps for name, value in place.sums.items()},
            "images_per_second": images / seconds,
            "share_of_time_waiting_for_data": self._waited / seconds,
        }

    def is_due(self, place: _Place) -> bool:
        """Whether a checkpoint is to be written in mid-epoch; not while gradients wait for more."""
        late = time.monotonic() - self._saved > self.settings.checkpoint_minutes * 60
        return late and place.step < self.steps and place.step % self.settings.accumulate == 0

    def _step(self, epoch: int, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        settings, whole = self.settings, epoch * self.steps + step
        torch.manual_seed(settings.seed * 1_000_003 + whole * world_size() + rank())
        self.trainee.train()
        self.trainee.start_step(epoch, step)
        moves = (step + 1) % settings.accumulate == 0 or step + 1 == self.steps
        on_device = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        hold = nullcontext() if moves or world_size() == 1 else self._running.no_sync()  # type: ignore[operator]
        with hold:
            values = self._with_gradients(on_device)
        if moves:
            self._move(whole)
        if not math.isfinite(values["loss"]):
            raise CopytraceError(
                f"the loss became {values['loss']} in step {step + 1} of epoch {epoch + 1}; start anew in another "
                "folder with a lower loop.learning_rate, or with loop.precision=float32"
            )
        return values

    def _with_gradients(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Run the trainee forward and back, in as many parts as the device's memory asks for."""
        while True:
            try:
                return self._in_parts(batch)
            except torch.OutOfMemoryError as error:
                self._halve(max(map(len, batch.values())), error)

    def _in_parts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        means: dict[str, float] = {}
        pieces = zip(*(value.chunk(self._parts) for value in batch.values()), strict=True)
        for piece in pieces:
            share = len(piece[0]) / max(map(len, batch.values()))
            with self.precision.autocast():
                figures: dict[str, Tensor] = self._running(dict(zip(batch, piece, strict=True)))
            self.precision.backward(figures["loss"] * share / self.settings.accumulate)
            for name, value in figures.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) * share
        return means

    def _halve(self, size: int, error: Exception) -> None:
        half = size // (2 * self._parts)
        if half < LEAST_BATCH or world_size() > 1:  # one process must not do what the others do not know of
            raise CopytraceError(
                f"{self.device} has too little free memory for a batch of {size // self._parts}; stop what else runs "
                f"there, or give loop.batch_size={size // 2} loop.accumulate={2 * self.settings.accumulate}"
            ) from error
        self._parts *= 2
        self.optimizer.zero_grad()  # what the parts before had added; with loop.accumulate the batches before, once
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("%s ran out of memory; going on with batches in parts of %d", self.device, half)

    def _move(self, whole: int) -> None:
        factor = rate_factor(whole + 1, self.settings, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * group["share"] * factor
        self.precision.step(self.optimizer, self.trainee.parameters(), self.settings.clip_norm)
        self._average.update_parameters(self.trainee.network)

    def validated(self, validate: Callable[[N], dict[str, float]], score: str, place: _Place) -> dict[str, float]:
        """Return what `validate` finds, and remember the network if it is the best yet."""
        metrics: dict[str, float] = {}
        if is_leader():
            self.averaged.eval()
            with torch.inference_mode():
                found = validate(self.averaged)
            metrics = {name: float(value) for name, value in found.items()}  # a checkpoint holds no numpy numbers
            if not place.best or metrics[score] > place.best["metrics"][score]:
                state = {name: value.detach().cpu().clone() for name, value in self.averaged.state_dict().items()}
                place.best = {"network": state, "epoch": place.epoch, "metrics": metrics}
        place.best = broadcast(place.best)
        return metrics

    def resume(self, path: Path, stamp: str) -> _Place:
        """Take up a checkpoint, if there is one, and return where it stands."""
        state = read_checkpoint(path, stamp, self.device)
        if state is None:
            return _Place()
        try:
            self.trainee.load_state_dict(state["trainee"])
            self._average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.load_state(state["precision"])
            return _Place(**state["place"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} holds another network than this version trains; remove it, or give another folder"
            ) from error

    def save(self, path: Path, stamp: str, place: _Place) -> None:
        """Write a checkpoint, whole or not at all."""
        self._saved = time.monotonic()
        if is_leader():
            state = {
                "trainee": self.trainee.state_dict(),
                "average": self._average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.precision.state(),
                "place": vars(place),
            }
            write_checkpoint(path, stamp, state)


def rate_factor(step: int, settings: LoopSettings, steps: int) -> float:
    """The learning rate in a step counted from 1, as a share of its peak: a linear warm-up, then a cosine to zero."""
    warmup, total = settings.warmup_epochs * steps, settings.epochs * steps
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
