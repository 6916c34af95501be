"""Prefect's server: the API, the UI, and the services that schedule, limit and end runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.service.ports import HOST
from tasks.service.server_process import ServerProcess, responds


class PrefectServer(ServerProcess):
    """A server at `url`, whose UI is at `ui`; `folder` becomes its PREFECT_HOME."""

    def __init__(
        self, folder: Path, port: int, database: str, *, log: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        """`database` must not contain a secret."""
        self.ui = f"http://{HOST}:{port}"
        self.url = f"{self.ui}/api"
        own = {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.url,
            "PREFECT_UI_API_URL": self.url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # As in prefect.toml, which a server reads only if it is started in the project's folder.
            "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        }
        super().__init__(
            name="Prefect's server",
            command=[
                sys.executable,
                "-m",
                "prefect",
                "--no-prompt",
                "server",
                "start",
                "--host",
                HOST,
                "--port",
                str(port),
            ],
            log=log,
            is_healthy=lambda: responds(f"{self.url}/health"),
            environment={**environment, **own},
            folder=folder,
        )
