"""Several GPUs training as one: a process for each, torch's collectives, and their absence."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, multiprocessing
from torch.multiprocessing.spawn import ProcessException, spawn

from copytrace.errors import CopytraceError

T = TypeVar("T")

logger = logging.getLogger(__name__)


def launch(work: Callable[..., T], *arguments: Any, devices: int) -> T:
    """Call `work(*arguments)`: here if it is for one device, else in a process per device.

    Returns what the first process does; `work`, its arguments and what it returns must pickle, and the latter holds no
    tensors. Raises the `CopytraceError` that one of the processes raised, or one that says how a process failed.
    """
    if devices == 1:
        return work(*arguments)
    told: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    heard: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        processes = spawn(  # type: ignore[no-untyped-call]
            _join, (devices, meeting, told, work, arguments), nprocs=devices, join=False
        )
        try:
            while not processes.join(timeout=1.0):
                heard += _heard(told)
        except ProcessException as failure:
            errors = [word for word in heard + _heard(told) if isinstance(word, CopytraceError)]
            raise errors[0] if errors else CopytraceError(f"a training process failed: {_line(failure)}") from failure
    answer: T = (heard + _heard(told))[0]
    return answer


def _heard(told: SimpleQueue[Any]) -> list[Any]:
    heard = []
    while not told.empty():
        heard.append(told.get())
    return heard


def _join(
    number: int, devices: int, meeting: str, told: SimpleQueue[Any], work: Callable[..., Any], given: Any
) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=number, world_size=devices)
    try:
        answer = work(*given)
        if is_leader():
            told.put(answer)
    except Exception as error:
        # Told before the group is left, as the others fail then too, for want of this one.
        if isinstance(error, CopytraceError):
            told.put(error)
        else:
            logger.exception("training process %d of %d failed", number + 1, devices)
            told.put(CopytraceError(f"a training process failed: {_line(error)}"))
        raise
    finally:
        distributed.destroy_process_group()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_leader() -> bool:
    """Whether this is the process that validates, writes and logs."""
    return rank() == 0


def gather_rows(values: Tensor) -> Tensor:
    """Return the rows [N, …] of all processes, [N × world size, …], in their order; gradients flow back to each."""
    return values if world_size() == 1 else _gather(values)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gather(values: Tensor) -> Tensor:
    rows: Tensor = _Gathered.apply(values)
    return rows


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        rows = [torch.empty_like(values) for _ in range(world_size())]
        distributed.all_gather(rows, values.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]


def broadcast(value: T) -> T:
    """Return the leader's value in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
