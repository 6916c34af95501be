"""A worker: it takes the runs of one work pool, and starts a process for each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tasks.service.server_process import ServerProcess


class Worker(ServerProcess):
    """A worker of `pool` that runs one flow at a time.

    Flows find the servers, and the keys of the object store, in the worker's own `environment`. It works in `project`,
    whose prefect.toml it reads and hands on to them.
    """

    def __init__(self, name: str, pool: str, *, project: Path, log: Path, environment: Mapping[str, str]) -> None:
        """`environment` must hold PREFECT_API_URL."""
        self._known_as, self._began = f"copytrace-{name}", datetime.now(UTC)
        self._workers = f"{environment['PREFECT_API_URL']}/work_pools/{pool}/workers/filter"
        options = ["--pool", pool, "--limit", "1", "--name", self._known_as, "--install-policy", "never"]
        super().__init__(
            name=f"worker {name}",
            command=[sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", *options],
            log=log,
            healthy=self._takes_runs,
            environment=environment,
            folder=project,
        )

    def start(self) -> None:
        """Start it and do not wait. Raises `ServerError`."""
        self._began = datetime.now(UTC)
        super().start()

    def _takes_runs(self) -> bool:
        # The server has heard of it since it was started: an earlier one of the same name does not count.
        try:
            answer = httpx.post(self._workers, json={}, timeout=5, trust_env=False).raise_for_status()
        except httpx.HTTPError:
            return False
        heard = {worker["name"]: worker["last_heartbeat_time"] for worker in answer.json()}
        return self._known_as in heard and datetime.fromisoformat(heard[self._known_as]) > self._began
