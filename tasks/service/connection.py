"""A client of Prefect's server that reports failures in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from tasks.service.setup import SetupError


@contextmanager
def connect_to_server() -> Iterator[SyncPrefectClient]:
    """Yield a client of the server at PREFECT_API_URL.

    Raises `SetupError` if that is not set, or if the server does not answer or refuses a request.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise SetupError(
            "PREFECT_API_URL is not set: start the servers with `make stack` and `source stack/environment`, "
            "or export the address of your server, such as http://127.0.0.1:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        refused = f"{error.response.status_code} {error.response.reason_phrase}"
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise SetupError(
                f"Prefect's server at {url} asks for a password: `source stack/environment`, or export "
                "PREFECT_API_AUTH_STRING=USER:PASSWORD"
            ) from error
        raise SetupError(f"Prefect's server at {url} answers {refused} to {error.request.url.path}") from error
    except httpx.TransportError as error:
        raise SetupError(
            f"no Prefect server answers at {url} (PREFECT_API_URL): start one with `make stack`"
        ) from error
