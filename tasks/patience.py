"""Patience with Prefect's server: a run goes on without it as far as it can, and waits where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

T = TypeVar("T")

PATIENCE_SECONDS = 900.0
"""Time for which a run waits for a server that is away."""
SECONDS_BETWEEN_ATTEMPTS = 5.0


def limit_attempts(seconds: float = 60.0, retries: int = 0) -> AbstractContextManager[Any]:
    """Return a block in which requests to the server wait so long for an answer, and are repeated so often.

    Prefect's own attempts come at ever longer intervals, up to half the time for which the server was away.
    """
    return temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries, PREFECT_API_REQUEST_TIMEOUT: seconds})


def wait_for_server(ask: Callable[[], T]) -> T:
    """Return what `ask` returns; while the server does not answer it, ask again, for `PATIENCE_SECONDS`.

    Call it in a run of Prefect, whose log says that it waits.
    """
    deadline, has_told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            with limit_attempts():
                return ask()
        except Exception as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
            if not has_told:
                get_run_logger().warning(
                    "Prefect's server does not answer (%s); waiting for it, at most %.0f min",
                    *(type(error).__name__, PATIENCE_SECONDS / 60),
                )
                has_told = True
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the server did not answer, and not that it refused."""
    if isinstance(error, ConcurrencySlotAcquisitionError) and error.__cause__:
        return is_away(error.__cause__)
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)
