"""Tracking: the run's settings, figures and files in MLflow, where somebody wants them there."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from copytrace.media.ingest import shown
from tasks.policy import stage_task

FILES = ("run.json", "matches.csv", "segments.csv", "report.html")


@stage_task("track")
def track(out: Path, experiment: str, run: dict[str, Any]) -> str | None:
    """Log a finished run to MLflow and return its id there; without MLFLOW_TRACKING_URI do nothing.

    The results lie in `out` already, so a tracking server that fails costs a warning and no more.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    # MLflow takes seconds to import, and most runs do without.
    from tasks.mlflow_store import TrackingError, asking  # noqa: PLC0415

    try:
        with asking(uri):
            return _log(uri, out, experiment, run)
    except (TrackingError, OSError) as error:
        get_run_logger().warning("not tracked in MLflow: %s", error)
        return None


def _log(uri: str, out: Path, experiment: str, run: Mapping[str, Any]) -> str:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    from tasks.mlflow_store import connect, experiment_id, leaves, run_link  # noqa: PLC0415

    client = connect(uri)
    tags = {
        "prefect.flow_run_id": str(flow_run.id or ""),
        "prefect.flow_run_url": flow_run.ui_url or "",
        "host": platform.node(),
    }
    entry = client.create_run(experiment_id(client, uri, experiment), run_name=flow_run.name, tags=tags)
    identity: str = entry.info.run_id
    metrics = [Metric(name, value, entry.info.start_time, 0) for name, value in leaves(_figures(run))]
    params = [Param(name, str(value)) for name, value in leaves(run["settings"])]
    versions = [RunTag(f"version.{name}", text) for name, text in run["versions"].items()]
    client.log_batch(identity, metrics=metrics, params=params, tags=versions)
    for name in FILES:
        if (out / name).exists():
            client.log_artifact(identity, str(out / name))
    client.set_terminated(identity)
    link = run_link(uri, entry.info.experiment_id, identity)
    create_link_artifact(link, f"MLflow run {identity}", key="mlflow-run", description=f"Tracked at {shown(uri)}")
    return identity


def _figures(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"counts": run["counts"], "stages": run["stages"]}
