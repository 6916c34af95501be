"""Tracking: the run's settings, figures and files in MLflow, where somebody wants them there."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_link_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.policy import stage_task

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = ("run.json", "matches.csv", "report.html")


@stage_task("track")
def track(out: Path, experiment: str, run: dict[str, Any]) -> str | None:
    """Log a finished run to MLflow and return its id there; without MLFLOW_TRACKING_URI do nothing.

    The results lie in `out` already, so a tracking server that fails costs a warning and no more.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    # MLflow takes seconds to import, and most runs do without.
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        identity = _log(uri, out, experiment, run)
    except (MlflowException, OSError) as error:
        get_run_logger().warning("not tracked in MLflow at %s: %s", uri, error)
        return None
    return identity


def _log(uri: str, out: Path, experiment: str, run: Mapping[str, Any]) -> str:
    from mlflow import MlflowClient  # noqa: PLC0415
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    client = MlflowClient(uri)
    tags = {
        "prefect.flow_run_id": str(flow_run.id or ""),
        "prefect.flow_run_url": flow_run.ui_url or "",
        "host": platform.node(),
    }
    entry = client.create_run(_experiment(client, uri, experiment), run_name=flow_run.name, tags=tags)
    identity: str = entry.info.run_id
    metrics = [Metric(name, value, entry.info.start_time, 0) for name, value in _leaves(_figures(run))]
    params = [Param(name, str(value)) for name, value in _leaves(run["settings"])]
    versions = [RunTag(f"version.{name}", text) for name, text in run["versions"].items()]
    client.log_batch(identity, metrics=metrics, params=params, tags=versions)
    for name in FILES:
        if (out / name).exists():
            client.log_artifact(identity, str(out / name))
    client.set_terminated(identity)
    if uri.startswith("http"):
        link = f"{uri.rstrip('/')}/#/experiments/{entry.info.experiment_id}/runs/{identity}"
    else:
        link = f"{entry.info.artifact_uri}"
    create_link_artifact(link, f"MLflow run {identity}", key="mlflow-run", description=f"Tracked at {uri}")
    return identity


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    # With a database file, MLflow would put artifacts into the current folder; they belong beside the database.
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    beside = (database.resolve().parent / "mlartifacts" / name).as_uri() if database else None
    return str(client.create_experiment(name, artifact_location=beside))


def _figures(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"counts": run["counts"], "stages": run["stages"]}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name.replace(' ', '_')}.")
        else:
            yield f"{prefix}{name}", value
