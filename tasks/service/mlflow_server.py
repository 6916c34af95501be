"""The MLflow server, which keeps runs and models in a database and passes artifacts on to an object store."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.service.ports import HOST
from tasks.service.server_process import ServerProcess, responds


class MlflowServer(ServerProcess):
    """An MLflow server at `uri`."""

    def __init__(
        self,
        folder: Path,
        port: int,
        database: str,
        artifacts: str,
        *,
        log: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`database` and `artifacts` must not contain secrets: both appear in the list of processes."""
        self.uri = f"http://{HOST}:{port}"
        serving = ["--host", HOST, "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", database, "--artifacts-destination", artifacts]
        # Jobs serve evaluations by language models, and each of their queues would be a process.
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        super().__init__(
            name="MLflow",
            command=[sys.executable, "-m", "mlflow", "server", *serving, *stores],
            log=log or folder / "mlflow.log",
            is_healthy=lambda: responds(f"{self.uri}/health"),
            environment={**environment, **quiet},
            folder=folder,
        )
