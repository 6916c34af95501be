"""Replace the password of an account of MLflow in its database, where the server lets nobody do so without the old one.

    python -m tasks.service.mlflow_password USER

The environment has the server's variables MLFLOW_AUTH_CONFIG_PATH and MLFLOW_AUTH_ADMIN_PASSWORD.
"""

from __future__ import annotations

import sys

from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore


def replace_password(user: str) -> None:
    """Give the user the password of the environment."""
    config, store = read_auth_config(), SqlAlchemyStore()
    store.init_db(config.database_uri)  # type: ignore[no-untyped-call]
    store.update_user(user, password=config.admin_password)


if __name__ == "__main__":
    replace_password(sys.argv[1])
