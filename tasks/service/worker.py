"""A worker, which takes the runs of one work pool and starts a process for each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tasks.service.server_process import ServerProcess


class Worker(ServerProcess):
    """A worker of `pool` that runs one flow at a time.

    Flows inherit the worker's `environment`, with the addresses of the servers and the keys of the object store. The
    worker runs in `project` and passes the settings of its prefect.toml on to the flows.
    """

    def __init__(self, name: str, pool: str, *, project: Path, log: Path, environment: Mapping[str, str]) -> None:
        """`environment` must hold PREFECT_API_URL."""
        self._worker_name, self._start_time = f"copytrace-{name}", datetime.now(UTC)
        self._workers_url = f"{environment['PREFECT_API_URL']}/work_pools/{pool}/workers/filter"
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
            answer = httpx.post(self._workers_url, json={}, timeout=5, trust_env=False).raise_for_status()
        except httpx.HTTPError:
            return False
        heard = {worker["name"]: worker["last_heartbeat_time"] for worker in answer.json()}
        return self._worker_name in heard and datetime.fromisoformat(heard[self._worker_name]) > self._start_time
