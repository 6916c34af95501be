"""The databases of a stack, brought to the versions of Prefect and MLflow that are installed.

    python -m tasks.service.upgrade STACK

The stack must be stopped: MLflow's server refuses to start with the database of an older version.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.service.ports import free_ports
from tasks.service.postgresql import PostgreSQL
from tasks.service.server_process import ServerError


def upgrade(folder: Path) -> None:
    """Start the PostgreSQL of the stack in `folder`, upgrade its databases, and stop it.

    Raises `ServerError` if there is no stack, if it runs, or if a database cannot be upgraded.
    """
    folder = folder.resolve()
    if not (folder / "postgresql").exists():
        raise ServerError(f"there is no stack in {folder}; give the folder of one")
    try:
        with FileLock(folder / "lock", timeout=0), _start_postgresql(folder) as database:
            for command, variables in _commands(database):
                environment = {**os.environ, **database.client_environment, **variables}
                if subprocess.run(command, env=environment, check=False).returncode:  # noqa: S603 - our own command
                    raise ServerError(
                        f"`{' '.join(command[2:])}` failed; see above, and restore the backup if you must"
                    )
    except Timeout as error:
        raise ServerError(f"the stack in {folder} runs: stop it, and give the same command again") from error


def _start_postgresql(folder: Path) -> PostgreSQL:
    log = folder / "logs" / "postgresql.log"
    return PostgreSQL(folder / "postgresql", free_ports(1)[0], secrets=folder / "secrets", log=log)


def _commands(database: PostgreSQL) -> Iterator[tuple[list[str], dict[str, str]]]:
    url = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    prefect = ["prefect", "--no-prompt", "server", "database", "upgrade", "-y"]
    yield [sys.executable, "-m", *prefect], {url: database.url("prefect", "asyncpg")}
    yield [sys.executable, "-m", "mlflow", "db", "upgrade", database.url("mlflow", "psycopg")], {}
    accounts = ["mlflow.server.auth", "db", "upgrade", "--url", database.url("mlflow_accounts", "psycopg")]
    yield [sys.executable, "-m", *accounts], {}


if __name__ == "__main__":
    try:
        upgrade(Path(*sys.argv[1:2]))
    except ServerError as told:
        sys.exit(f"copytrace: {told}")
