"""Steps as Prefect tasks: names, slots, retries of transient faults, access to storage, and no caching."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from copytrace.errors import CopytraceError
from copytrace.lease import Claim, current_claims, join_run
from copytrace.step import listen
from tasks.limits import SlotRule, hold_slots
from tasks.patience import is_away, wait_for_server
from tasks.progress import ArtifactProgress
from tasks.storage_access import open_access

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [5.0, 30.0]
"""Seconds before the second and the third attempt."""

_TRANSIENT_ERRNOS = frozenset(
    {
        # Errors of a network file system while its server restarts.
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        # s3fs maps 500 InternalError to EREMOTEIO, 503 SlowDown to EBUSY, and unknown codes to EIO.
        getattr(errno, "EREMOTEIO", errno.EIO),
    }
)
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class StepTask:
    """How Prefect runs a step of a recipe.

    `run_name` is a template of the step's arguments that names its task runs; its first word names the task. `slots`
    returns from the step's settings which slots of the server's limits it holds while it works. `show` is called with
    the step's result and arguments, within its task run.
    """

    step: Callable[..., Any]
    run_name: str
    slots: SlotRule | None = None
    show: Callable[[Any, Mapping[str, Any]], None] | None = None


def tasks_by_step(*rows: StepTask) -> dict[Callable[..., Any], Task[..., Any]]:
    """Return the Prefect task of each step."""
    return {row.step: step_task(row.run_name, row.slots, row.show)(row.step) for row in rows}


def step_task(
    run_name: str, slots: SlotRule | None = None, show: Callable[[Any, Mapping[str, Any]], None] | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator that makes a step a Prefect task; see `StepTask`.

    Prefect's cache is off, because a step's record says whether it is done. Transient faults are retried. The task
    takes one more argument than the step: the `claims` of the run, since its process may be another one than the run's.
    """

    def decorate(step: Callable[P, R]) -> Task[P, R]:
        signature = inspect.signature(step)

        @wraps(step)
        def run_step(*args: Any, claims: tuple[Claim, ...] | None = None, **kwargs: Any) -> R:
            open_access()
            arguments = signature.bind(*args, **kwargs).arguments
            detail = f"{arguments['shard']:05}" if "shard" in arguments else ""
            limits = hold_slots(slots(arguments["settings"])) if slots else nullcontext()
            run = join_run(current_claims() if claims is None else claims)
            with run, limits, _gpu_memory_errors(), listen(ArtifactProgress(detail)):
                result = step(*args, **kwargs)
            if show:
                wait_for_server(lambda: show(result, arguments))
            return result

        taken = [*signature.parameters.values(), inspect.Parameter("claims", _KEYWORD, default=None)]
        run_step.__signature__ = signature.replace(parameters=taken)  # type: ignore[attr-defined]
        as_task = task(
            name=run_name.partition(" ")[0],
            task_run_name=run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=RETRY_DELAYS,
            retry_condition_fn=retry_if_transient,
        )
        return cast(Task[P, R], as_task(run_step))

    return decorate


@contextmanager
def _gpu_memory_errors() -> Iterator[None]:
    """Raise `CopytraceError` if even the smallest batch exceeds the GPU's memory; descriptors halve batches first."""
    try:
        yield
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # not imported here, because many steps do not need it
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        raise CopytraceError(
            "the GPU ran out of memory; stop what else runs on it, or make batches smaller (descriptor.batch_size, of "
            "a training loop.batch_size with more loop.accumulate); what was finished is kept"
        ) from error


def retry_if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether to retry a failed task: yes if the network or a disk failed, no if the inputs or the code did."""
    return is_transient(state.result(raise_on_failure=False))


def is_transient(error: object) -> bool:
    """Return whether another attempt may succeed."""
    if isinstance(error, CopytraceError) and error.__cause__:
        return is_transient(
            error.__cause__
        )  # a one-line error whose cause decides, such as a store that does not answer
    if isinstance(error, httpx.HTTPError):
        return is_away(error)
    from botocore.exceptions import ClientError  # here, as below  # noqa: PLC0415

    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status == _TOO_MANY_REQUESTS or status >= _FIRST_SERVER_ERROR
    return isinstance(error, transient_errors()) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS)


def transient_errors() -> tuple[type[Exception], ...]:
    """Return the types of errors that another attempt may not meet again.

    The clients of stores are imported here, as they take half a second that a run without a failure does not need.
    """
    from http.client import IncompleteRead  # noqa: PLC0415

    from aiohttp import ClientPayloadError  # noqa: PLC0415
    from botocore.exceptions import ConnectionError as S3ConnectionError  # noqa: PLC0415
    from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    # s3fs raises these after five attempts.
    of_stores = (S3ConnectionError, HTTPClientError, IncompleteRead, IncompleteReadError, ResponseParserError)
    of_servers = (ConnectionError, TimeoutError, ConcurrencySlotAcquisitionError)  # the last if Prefect's restarts
    return (*of_servers, *of_stores, ClientPayloadError)
