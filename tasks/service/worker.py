"""A worker, which takes the runs of one work pool and starts a process for each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.service.server_process import ServerProcess

_CONNECTION = (PREFECT_API_URL, PREFECT_API_AUTH_STRING)


class Worker(ServerProcess):
    """A worker of `pool` that runs one flow at a time.

    Flows inherit the worker's `environment`, with the addresses of the servers and the keys of the object store. The
    worker runs in `project` and passes the settings of its prefect.toml on to the flows.
    """

    def __init__(self, name: str, pool: str, *, project: Path, log: Path, environment: Mapping[str, str]) -> None:
        """`environment` must hold PREFECT_API_URL, and the PREFECT_API_AUTH_STRING that its server asks for."""
        self._pool, self._settings = pool, {name: environment.get(name.name) for name in _CONNECTION}
        self._worker_name, self._start_time = f"copytrace-{name}", datetime.now(UTC)
        options = ["--pool", pool, "--limit", "1", "--name", self._worker_name, "--install-policy", "never"]
        super().__init__(
            name=f"worker {name}",
            command=[sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", *options],
            log=log,
            is_healthy=self._is_polling,
            environment=environment,
            folder=project,
        )

    def start(self) -> None:
        """Start the worker without waiting for it. Raises `ServerError`."""
        self._start_time = datetime.now(UTC)
        super().start()

    def _is_polling(self) -> bool:
        # A heartbeat after the start shows that it polls; one before may come from an earlier worker of the same name.
        try:
            with temporary_settings(self._settings), get_client(sync_client=True) as client:
                workers = client.read_workers_for_work_pool(self._pool)
        except (httpx.HTTPError, PrefectException):
            return False
        heard = {worker.name: worker.last_heartbeat_time for worker in workers}
        last = heard.get(self._worker_name)
        return last is not None and last > self._start_time
