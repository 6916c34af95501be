"""The MLflow server, which keeps runs and models in a database and passes artifacts on to an object store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from tasks.service.ports import HOST
from tasks.service.secrets import read_or_create_secret, write_private
from tasks.service.server_process import SECONDS_TO_START, ServerError, ServerProcess, responds

USER = "copytrace"
_SECONDS_TO_LOG_IN = 60.0
_SECONDS_TO_REPLACE = 300.0
_ACCOUNTS = """\
[mlflow]
database_uri = {database}
admin_username = {user}
default_permission = NO_PERMISSIONS
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Of a password that was right; to check one takes a good part of a second.
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True, slots=True)
class MlflowLogin:
    """The account that the server asks for: its password, and the key by which the server signs its forms.

    `accounts` is the database in which the server keeps it.
    """

    password: str
    form_key: str
    accounts: str

    @classmethod
    def of(cls, secrets: Path, accounts: str) -> MlflowLogin:
        """Return the login whose files lie in the folder `secrets`, and make them if there are none."""
        password, form_key = (read_or_create_secret(secrets / f"mlflow-{name}") for name in ("password", "form-key"))
        return cls(password, form_key, accounts)

    @property
    def client_environment(self) -> dict[str, str]:
        """The variables by which MLflow's clients log in."""
        return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.password}


class MlflowServer(ServerProcess):
    """An MLflow server at `uri`, which answers only who logs in, if it has a `login`."""

    def __init__(
        self,
        folder: Path,
        port: int,
        database: str,
        artifacts: str,
        *,
        login: MlflowLogin | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """No address of a database may contain a secret, as `ps` shows it."""
        self.uri, self._login = f"http://{HOST}:{port}", login
        self.client_environment = {"MLFLOW_TRACKING_URI": self.uri, **(login.client_environment if login else {})}
        serving = ["--host", HOST, "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", database, "--artifacts-destination", artifacts]
        # Jobs serve evaluations by language models, and each of their queues would be a process.
        own = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if login:
            config = write_private(folder / "accounts.ini", _ACCOUNTS.format(database=login.accounts, user=USER))
            serving += ["--app-name", "basic-auth"]
            own |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(config),
                "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": login.form_key,
            }
        super().__init__(
            name="MLflow",
            command=[sys.executable, "-m", "mlflow", "server", *serving, *stores],
            log=log or folder / "mlflow.log",
            is_healthy=lambda: responds(f"{self.uri}/health"),
            environment={**environment, **own},
            folder=folder,
        )

    def wait(self, seconds: float = SECONDS_TO_START) -> None:
        """Return once the server is healthy and takes the password. Raises `ServerError`."""
        super().wait(seconds)
        if self._login and not self._takes(self._login.password):
            # MLflow reads the password only when it creates the account.
            self._replace_password()
            if not self._takes(self._login.password):
                raise ServerError(f"MLflow does not take the password of its user {USER}; see {self.log}")

    def _takes(self, password: str) -> bool:
        try:
            answer = httpx.get(
                f"{self.uri}/api/2.0/mlflow/users/get",
                params={"username": USER},
                auth=(USER, password),
                timeout=_SECONDS_TO_LOG_IN,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise ServerError(f"MLflow does not answer who logs in ({type(error).__name__}); see {self.log}") from error
        return answer.is_success

    def _replace_password(self) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own command
                [sys.executable, "-m", "tasks.service.mlflow_password", USER],
                cwd=Path(__file__).parents[2],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_SECONDS_TO_REPLACE,
                check=False,
            )
        if done.returncode:
            raise ServerError(f"the password of MLflow's user {USER} was not replaced; see {self.log}")
