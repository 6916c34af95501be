"""Training on several GPUs, a process for each, and torch's collectives, which also work without a group."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.nn.parallel import DistributedDataParallel

from copytrace.errors import CopytraceError
from copytrace.lease import Claim, current_claims, join_run

T = TypeVar("T")

logger = logging.getLogger(__name__)


def launch(work: Callable[..., T], *arguments: Any, devices: int) -> T:
    """Call `work(*arguments)` here if there is one device, otherwise in a process per device.

    Returns what the first process returns. `work`, its arguments and its result must pickle; the result holds no
    tensors. Raises the `CopytraceError` of the process that failed first, or one that describes its failure.
    """
    if devices == 1:
        return work(*arguments)
    queue: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    messages: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        processes = spawn(  # type: ignore[no-untyped-call]
            _run_process,
            (devices, rendezvous, queue, _in_run, (current_claims(), work, *arguments)),
            nprocs=devices,
            join=False,
        )
        try:
            while not processes.join(timeout=1.0):
                messages += _drain(queue)
        except ProcessException as failure:
            errors = [message for message in messages + _drain(queue) if isinstance(message, CopytraceError)]
            raise errors[0] if errors else CopytraceError(f"a training process failed: {_line(failure)}") from failure
    result: T = (messages + _drain(queue))[0]
    return result


def _in_run(claims: tuple[Claim, ...], work: Callable[..., T], *arguments: Any) -> T:
    with join_run(claims):
        return work(*arguments)


def _drain(queue: SimpleQueue[Any]) -> list[Any]:
    messages = []
    while not queue.empty():
        messages.append(queue.get())
    return messages


def _run_process(
    number: int, devices: int, rendezvous: str, queue: SimpleQueue[Any], work: Callable[..., Any], arguments: Any
) -> None:
    distributed.init_process_group(backend_of_groups(), init_method=rendezvous, rank=number, world_size=devices)
    try:
        result = work(*arguments)
        if is_first_process():
            queue.put(result)
    except Exception as error:
        # Sent before this process leaves the group: the others then fail for lack of it, and their errors come later.
        if isinstance(error, CopytraceError):
            queue.put(error)
        else:
            logger.exception("training process %d of %d failed", number + 1, devices)
            queue.put(CopytraceError(f"a training process failed: {_line(error)}"))
        raise
    finally:
        distributed.destroy_process_group()


def backend_of_groups() -> str:
    """Return the name of torch's collectives for tensors on the CPU and, where there are GPUs, on these."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first_process() -> bool:
    """Say whether this is the process that validates, writes and logs."""
    return rank() == 0


def gather_rows(values: Tensor) -> Tensor:
    """Return the rows [N, …] of all processes in their order, [N × world size, …]; gradients flow back to each."""
    return values if world_size() == 1 else _gather(values)


def _gather(values: Tensor) -> Tensor:
    # Not as a decorator: that imports torch's compiler, for which each process that only makes batches would wait.
    rows: Tensor = torch.compiler.disable(_GatheredRows.apply)(values)  # type: ignore[no-untyped-call]
    return rows


class _GatheredRows(torch.autograd.Function):
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


def in_group(module: nn.Module) -> nn.Module:
    """Return a module whose gradients are the means over all processes; buffers stay those of each process."""
    with warnings.catch_warnings():  # torch has a new name for this argument, which older versions do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False)


def broadcast(value: T) -> T:
    """Return the first process's value in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
