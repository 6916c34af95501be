"""Patience with Prefect's server: a run goes on without it as far as it can, and waits where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.context import SettingsContext, get_settings_context
from prefect.logging import get_run_logger

T = TypeVar("T")

PATIENCE_SECONDS = 900.0
"""Time for which a run waits for a server that is away."""
SECONDS_BETWEEN_ATTEMPTS = 5.0


@contextmanager
def limit_attempts(seconds: float = 60.0, retries: int = 0) -> Iterator[None]:
    """Open a block in which requests to the server wait so long for an answer, and are repeated so often.

    Prefect's own attempts come at ever longer intervals, up to half the time for which the server was away.
    """
    context = get_settings_context()
    # Prefect's `temporary_settings` reads and validates all its settings anew, which takes longer than two requests.
    client = context.settings.client.model_copy(update={"max_retries": retries})
    api = context.settings.api.model_copy(update={"request_timeout": seconds})
    settings = context.settings.model_copy(update={"client": client, "api": api})
    with SettingsContext(profile=context.profile, settings=settings):
        yield


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
