"""What all stages have in common under Prefect: no caching by inputs, no stored results, retries of passing faults."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from botocore.exceptions import ConnectionError as S3ConnectionError
from botocore.exceptions import HTTPClientError
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [5.0, 30.0]
"""Seconds before the second and the third attempt."""

_PASSING_ERRORS = (ConnectionError, TimeoutError, S3ConnectionError, HTTPClientError)
# What a network file system answers while its server restarts.
_PASSING_NUMBERS = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})


def stage_task(task_run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator that makes a stage a Prefect task, its runs named by a template of its arguments.

    A stage knows by itself what an earlier run has done, from files; Prefect's cache would only cost time.
    """
    return task(
        task_run_name=task_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=may_pass,
    )


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failed task is worth another attempt: the network or a disk failed, not the inputs or the code."""
    return is_passing(state.result(raise_on_failure=False))


def is_passing(error: object) -> bool:
    """Say whether an error may be gone by itself when the same is tried again."""
    return isinstance(error, _PASSING_ERRORS) or (isinstance(error, OSError) and error.errno in _PASSING_NUMBERS)
