"""Optional tracking of a matching run in MLflow: its settings, figures and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from configs.load import flatten
from copytrace.storage import local_copy
from tasks.step_task import step_task

FILES = ("run.json", "matches.csv", "segments.csv", "report.html")


@step_task("track")
def track(out: Path, experiment: str, run: dict[str, Any]) -> str | None:
    """Log a finished run to MLflow and return the id of its MLflow run; without MLFLOW_TRACKING_URI, do nothing.

    All attempts of a flow run share one MLflow run. If tracking fails, only a warning is logged, because the results
    lie in `out` already.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    # MLflow takes seconds to import, and most runs do not need it.
    from tasks.mlflow_store import TrackingError, mlflow_errors  # noqa: PLC0415

    try:
        with mlflow_errors(uri):
            return _log(uri, out, experiment, run)
    except (TrackingError, OSError) as error:
        get_run_logger().warning("not tracked in MLflow: %s", error)
        return None


def _log(uri: str, out: Path, experiment: str, run: Mapping[str, Any]) -> str:
    from mlflow.entities import Metric  # noqa: PLC0415

    from tasks.mlflow_links import find_run, link_from_flow_run, log_run_settings, origin_tags  # noqa: PLC0415
    from tasks.mlflow_store import connect, experiment_id  # noqa: PLC0415

    client = connect(uri)
    group = experiment_id(client, uri, experiment)
    # The tags are set at creation, because another attempt finds the run by them.
    entry = find_run(client, group) or client.create_run(group, run_name=flow_run.name, tags=origin_tags())
    identity: str = entry.info.run_id
    log_run_settings(
        client, entry, run["settings"], {f"version.{name}": text for name, text in run["versions"].items()}
    )
    # Names of steps have blanks: "stages.describe_queries.seconds".
    figures = {name.replace(" ", "_"): value for name, value in flatten(_figures(run)).items()}
    metrics = [Metric(name, value, entry.info.start_time, 0) for name, value in figures.items()]
    client.log_batch(identity, metrics=metrics)
    for name in FILES:
        if (out / name).exists():
            with local_copy(out / name) as file:
                client.log_artifact(identity, str(file))
    client.set_terminated(identity)
    link_from_flow_run(uri, entry)
    return identity


def _figures(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"counts": run["counts"], "stages": run["stages"]}
