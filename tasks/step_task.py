"""What all stages have in common under Prefect: retries of passing faults, limits, access to storage, no caching."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from http.client import IncompleteRead
from typing import Any, ParamSpec, TypeVar

import httpx
from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as S3ConnectionError
from botocore.parsers import ResponseParserError
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from copytrace.errors import CopytraceError
from tasks.limits import SlotRule, hold_slots
from tasks.storage_access import open_access

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [5.0, 30.0]
"""Seconds before the second and the third attempt."""

_PASSING_ERRORS = (
    *(ConnectionError, TimeoutError),
    # What is still wrong after s3fs has tried five times.
    *(S3ConnectionError, HTTPClientError, IncompleteRead, IncompleteReadError, ResponseParserError, ClientPayloadError),
    *(httpx.TransportError, ConcurrencySlotAcquisitionError),  # the Prefect server restarts
)
_PASSING_NUMBERS = frozenset(
    {
        # What a network file system answers while its server restarts.
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
        # What s3fs makes of 500 InternalError; of 503 SlowDown it makes EBUSY, of codes that it does not know EIO.
        getattr(errno, "EREMOTEIO", errno.EIO),
    }
)
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500


def step_task(task_run_name: str, needs: SlotRule | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator that makes a stage a Prefect task, its runs named by a template of its arguments.

    `needs` says from the stage's argument `settings` which slots of the server's limits it holds while it works.
    A stage knows by itself what an earlier run has done, from files; Prefect's cache would only cost time.
    """

    def decorate(stage: Callable[P, R]) -> Task[P, R]:
        takes = inspect.signature(stage)

        @wraps(stage)
        def within_limits(*args: P.args, **kwargs: P.kwargs) -> R:
            open_access()
            slots = hold_slots(needs(takes.bind(*args, **kwargs).arguments["settings"])) if needs else nullcontext()
            with slots, _memory_of_gpu():
                return stage(*args, **kwargs)

        return task(
            task_run_name=task_run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=RETRY_DELAYS,
            retry_condition_fn=retry_if_transient,
        )(within_limits)

    return decorate


@contextmanager
def _memory_of_gpu() -> Iterator[None]:
    """Tell in one line what no smaller batch could help: the image descriptor has halved its own by then."""
    try:
        yield
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # not imported for the sake of stages that do without
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        raise CopytraceError(
            "the GPU ran out of memory; stop what else runs on it, or make batches smaller (descriptor.batch_size, of "
            "a training loop.batch_size with more loop.accumulate); what was finished is kept"
        ) from error


def retry_if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failed task is worth another attempt: the network or a disk failed, not the inputs or the code."""
    return is_transient(state.result(raise_on_failure=False))


def is_transient(error: object) -> bool:
    """Say whether an error may be gone by itself when the same is tried again."""
    if isinstance(error, CopytraceError) and error.__cause__:
        return is_transient(error.__cause__)  # told in one line, such as a store that does not answer
    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status == _TOO_MANY_REQUESTS or status >= _FIRST_SERVER_ERROR
    return isinstance(error, _PASSING_ERRORS) or (isinstance(error, OSError) and error.errno in _PASSING_NUMBERS)
