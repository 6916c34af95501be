from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from tasks.patience import limit_attempts


def test_requests_in_a_block_wait_and_are_repeated_as_it_says_and_others_as_before() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 4}):
        before = PREFECT_API_REQUEST_TIMEOUT.value()
        with limit_attempts(3.0, 1), get_client(sync_client=True) as client:
            assert (PREFECT_CLIENT_MAX_RETRIES.value(), PREFECT_API_REQUEST_TIMEOUT.value()) == (1, 3.0)
            assert client._client.timeout.read == 3.0
            assert str(client.api_url) == "http://127.0.0.1:9/api/"
        assert (PREFECT_CLIENT_MAX_RETRIES.value(), PREFECT_API_REQUEST_TIMEOUT.value()) == (4, before)
