"""Progress in Prefect: a progress artifact for each step, and a log line when the step has finished."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from copytrace.stall import StallGuard, end_if_stalled
from copytrace.step import StepProgress
from tasks.patience import limit_attempts

SECONDS_BETWEEN_UPDATES = 2.0
"""An update is a request of about 25 ms to the server, so at this interval updates take about 1 % of the time."""
SECONDS_TO_ANSWER = 10.0
RETRIES = 2  # after two and four seconds; a server whose database is busy answers 503
SECONDS_AFTER_FAILURE = 60.0

logger = logging.getLogger(__name__)


class ArtifactProgress:
    """A listener that shows steps as progress artifacts such as `describe-references-00003`, and in the log.

    `detail` distinguishes the shards of a step.
    """

    def __init__(self, detail: str = "") -> None:
        self._detail = detail

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Open a step of `total` units; if it fails, its artifact keeps the last percentage."""
        title = f"{name} {self._detail}".strip()
        log = get_run_logger() if _is_in_run() else logger
        begin = time.monotonic()
        guarded = end_if_stalled(title, total, unit, partial(_fail_run, _current_run()))
        with guarded as guard, _open_artifact(title, f"{total:,} {unit}") as artifact:
            step = _ArtifactStep(artifact, total, guard)
            yield step
            step.close()
        seconds = max(time.monotonic() - begin, 1e-6)
        log.info("%s: %s %s in %.1f s, %s a second", title, f"{total:,}", unit, seconds, f"{total / seconds:,.0f}")


class _Artifact:
    """A progress artifact, and the client that updates it from any thread."""

    def __init__(self, client: SyncPrefectClient, identity: UUID) -> None:
        self._client, self._identity = client, identity
        self._not_before = 0.0

    def update(self, percent: float) -> None:
        """Show the percentage, unless the server was away lately; it must not hold up the work."""
        if time.monotonic() < self._not_before:
            return
        try:
            with limit_attempts(SECONDS_TO_ANSWER, RETRIES):
                self._client.update_artifact(self._identity, ArtifactUpdate(data=percent))
        except httpx.HTTPError as error:
            self._not_before = time.monotonic() + SECONDS_AFTER_FAILURE
            logger.warning("progress could not be shown: %s", type(error).__name__)


class _ArtifactStep:
    def __init__(self, artifact: _Artifact | None, total: int, guard: StallGuard) -> None:
        self._artifact, self._total, self._guard = artifact, total, guard
        self._done, self._updated = 0, time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int = 1) -> None:
        self._guard.advance(count)
        with self._lock:
            self._done += count
            if self._artifact and time.monotonic() - self._updated >= SECONDS_BETWEEN_UPDATES:
                self._updated = time.monotonic()
                self._artifact.update(min(100.0, 100.0 * self._done / max(self._total, 1)))

    def resize(self, total: int) -> None:
        self._guard.resize(total)
        self._total = total

    def close(self) -> None:
        if self._artifact:
            self._artifact.update(100.0)


@contextmanager
def _open_artifact(title: str, description: str) -> Iterator[_Artifact | None]:
    if not _is_in_run():
        yield None
        return
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    try:
        with limit_attempts(SECONDS_TO_ANSWER, RETRIES):
            identity = create_progress_artifact(0.0, key=key, description=description)
            client = get_client(sync_client=True)
    except httpx.HTTPError as error:
        logger.warning("progress could not be shown: %s", type(error).__name__)
        yield None
        return
    if not isinstance(identity, UUID):
        raise TypeError("progress artifacts can be created in synchronous tasks only")
    with client:
        yield _Artifact(client, identity)


def _current_run() -> UUID | None:
    """Return the id of the flow run that this code belongs to."""
    if task := TaskRunContext.get():
        return task.task_run.flow_run_id
    flow = FlowRunContext.get()
    return flow.flow_run.id if flow and flow.flow_run else None


def _fail_run(run: UUID | None, reason: str) -> None:
    logger.error(reason)
    if run:
        with limit_attempts(SECONDS_TO_ANSWER, RETRIES), get_client(sync_client=True) as client:
            client.set_flow_run_state(run, State(type=StateType.FAILED, message=reason), force=True)


def _is_in_run() -> bool:
    return TaskRunContext.get() is not None or FlowRunContext.get() is not None
