"""Several GPUs training as one: torch's own launcher and collectives, and their absence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from copytrace.errors import CopytraceError

T = TypeVar("T")
_KINDS: list[type[CopytraceError]] = [CopytraceError, *CopytraceError.__subclasses__()]
_ERRORS = {kind.__name__: kind for kind in _KINDS}


def launch(work: Callable[..., T], *arguments: Any, devices: int) -> T:
    """Call `work(*arguments)`: here if it is for one device, else in a process per device.

    Returns what the first process does; `work` and its arguments must pickle. Raises the `CopytraceError` that one of
    the processes raised, or one that says how a process failed.
    """
    if devices == 1:
        return work(*arguments)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        run_id="train",
        max_restarts=0,
    )
    try:
        answers: dict[int, T] = elastic_launch(config, _joined)(work, *arguments)
    except ChildFailedError as failure:
        raise _cause(failure) from failure
    return answers[0]


def _cause(failure: ChildFailedError) -> CopytraceError:
    """What one process raised on purpose, before the others failed for want of it; else the first failure."""
    said = {rank: _message(found.message) for rank, found in failure.failures.items()}
    for message in said.values():
        name, _, text = message.partition(": ")
        if name in _ERRORS:
            return _ERRORS[name](text)
    first, _ = failure.get_first_failure()
    reason = " ".join(said[first].split())
    return CopytraceError(f"training process {first + 1} of several failed: {reason}; its own output says more")


def _message(found: Any) -> str:
    return str(found["message"] if isinstance(found, dict) else found)


def _joined(work: Callable[..., T], *arguments: Any) -> T:
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        return work(*arguments)
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_leader() -> bool:
    """Whether this is the process that validates, writes and logs."""
    return rank() == 0


def gathered(values: Tensor) -> Tensor:
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


def together(value: T) -> T:
    """Return the leader's value in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
