"""Prefect's server: the API, the UI, and the services that schedule, limit and end runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.service.ports import HOST
from tasks.service.server_process import ServerProcess, responds

USER = "copytrace"


class PrefectServer(ServerProcess):
    """A server at `url`, whose UI is at `ui`; `folder` becomes its PREFECT_HOME.

    It answers only who gives the password, as `client_environment` does, and changes nothing for another origin:
    whoever can start runs can run commands as the user of its workers.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        database: str,
        *,
        password: str,
        log: Path,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`database` must not contain a secret."""
        self.ui = f"http://{HOST}:{port}"
        self.url = f"{self.ui}/api"
        self.client_environment = {"PREFECT_API_URL": self.url, "PREFECT_API_AUTH_STRING": f"{USER}:{password}"}
        own = {
            **self.client_environment,
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_API_AUTH_STRING": self.client_environment["PREFECT_API_AUTH_STRING"],
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.ui,
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
