"""The watch over runs as a process beside the servers; see `tasks.service.run_watch`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.service.server_process import ServerProcess

_STARTED = b"watching the runs of "


class WatchProcess(ServerProcess):
    """A watch over the runs of the server that `environment` names by PREFECT_API_URL."""

    def __init__(self, *, project: Path, log: Path, environment: Mapping[str, str]) -> None:
        """The process runs in `project`, with the settings of its prefect.toml."""
        self._begin = 0
        super().__init__(
            name="the watch over runs",
            command=[sys.executable, "-m", "tasks.service.run_watch"],
            log=log,
            is_healthy=lambda: _STARTED in log.read_bytes()[self._begin :],
            environment=environment,
            folder=project,
        )

    def start(self) -> None:
        """Start the watch without waiting for its first look. Raises `ServerError`."""
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        super().start()
