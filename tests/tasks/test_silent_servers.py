"""Servers that take a connection and never answer: each client gives up, after a time that can be set."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from copytrace import object_store
from copytrace.errors import StorageError
from copytrace.storage import resolve_path
from tasks.mlflow_store import ServerUnavailableError, connect, mlflow_errors
from tasks.service.connection import connect_to_server
from tasks.service.setup import SetupError

LONGEST = 60.0  # on a machine that is busy besides


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        begin = time.monotonic()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert time.monotonic() - begin < LONGEST


def test_a_store_that_never_answers_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert object_store._S3["config_kwargs"]["read_timeout"] == 20
    once = {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 1, "read_timeout": 0.2}
    monkeypatch.setattr(object_store, "_S3", {"config_kwargs": once})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    with pytest.raises(StorageError, match=r"s3://silent/object cannot be reached \(\w*Timeout\w*\)"):
        resolve_path("s3://silent/object").read_bytes()


def test_an_mlflow_server_that_never_answers_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServerUnavailableError, match="does not answer"), mlflow_errors(silent):
        connect(silent).search_experiments()


def test_a_prefect_server_that_never_answers_is_given_up(silent: str) -> None:
    hurry = {PREFECT_API_URL: f"{silent}/api", PREFECT_API_REQUEST_TIMEOUT: 0.2, PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        temporary_settings(hurry),
        pytest.raises(SetupError, match="no Prefect server answers"),
        connect_to_server() as client,
    ):
        client.read_work_pools()


def test_mlflow_sends_no_usage_data_from_where_copytrace_imports_it() -> None:
    asked = "import tasks, mlflow.telemetry.client as client; print(client.get_telemetry_client())"
    # With an empty environment: MLFLOW_DISABLE_TELEMETRY is not set, and there are no signs of a test.
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {asked}"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"
