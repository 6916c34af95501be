"""The MLflow store, a server or a local database file, and errors of MLflow in one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from copytrace.errors import CopytraceError
from copytrace.object_store import redact

# By default, MLflow tries for four minutes to reach a server. Values that the user has set take precedence.
DEFAULT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class TrackingError(CopytraceError):
    """A request to MLflow failed."""


class ServerUnavailableError(TrackingError, ConnectionError):
    """The MLflow server does not answer. Being a `ConnectionError`, this is retried (see `tasks.step_task`)."""


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, by default a database in the user's data folder, `copytrace/mlflow.db`."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{data / 'copytrace' / 'mlflow.db'}"


def database_file(uri: str) -> Path | None:
    """Return the database file that a tracking URI names, or None if it names none."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def connect(uri: str) -> MlflowClient:
    """Return a client; if the URI names a database file that does not exist, create it. Raises `TrackingError`.

    Whether a server answers shows only at the first request, which fails after about three seconds. Make requests
    within `mlflow_errors`.
    """
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for chatty in ("mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with mlflow_errors(uri):
        return _client(uri)


@cache
def _client(uri: str) -> MlflowClient:
    client = MlflowClient(uri)
    if database := database_file(uri):
        database.parent.mkdir(parents=True, exist_ok=True)
        # The first request creates the tables; two processes that create them at once would both fail.
        with FileLock(f"{database}.lock"):
            client.search_experiments(max_results=1)
    return client


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Raise errors of MLflow in the block as `TrackingError`, or as `ServerUnavailableError` if no server answers."""
    try:
        yield
    except MlflowException as error:
        # The errors of the library requests are OSErrors.
        if uri.startswith("http") and isinstance(error.__context__, OSError):
            raise ServerUnavailableError(
                f"the MLflow server at {redact(uri)} does not answer; start it, or set MLFLOW_TRACKING_URI to another"
            ) from error
        raise TrackingError(f"MLflow at {redact(uri)}: {str(error).splitlines()[0]}") from error


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of the experiment with that name; if there is none, create it."""
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    # With a database file, MLflow would store artifacts in the current folder instead of beside the database.
    database = database_file(uri)
    beside = (database.parent / "mlartifacts" / name).as_uri() if database else None
    return str(client.create_experiment(name, artifact_location=beside))


def run_link(uri: str, experiment: str, run_id: str) -> str:
    """Return the URL of a run's page on its server, or the database file that contains it."""
    if uri.startswith("http"):
        return f"{redact(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    database = database_file(uri)
    return database.as_uri() if database else redact(uri)


def entity_name(name: str) -> str:
    """Return a name that MLflow accepts for a metric or an image: `recall@0.5` becomes `recall_0.5`."""
    return re.sub(r"[^\w\-. /:]", "_", name)
