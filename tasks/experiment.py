"""A training run in MLflow, with its settings, data, metrics and images; a resumed training continues the same run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from numpy.typing import NDArray
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run

from copytrace.object_store import redact
from copytrace.storage import read_json, write_json
from copytrace.training.log import read_history
from tasks.mlflow_links import link_from_flow_run, log_run_settings
from tasks.mlflow_store import connect, entity_name, experiment_id, mlflow_errors, run_link, tracking_uri

RECEIPT = "mlflow.json"
SECONDS_BETWEEN_SAMPLES = 30
"""Interval of sampling the machine's load; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MlflowLog:
    """A `copytrace.training.log.TrainingLog` that logs to an MLflow run. It can be pickled, and never raises."""

    uri: str
    run_id: str

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Log the metrics of an epoch; those that fail are sent again when the run ends."""
        with _warn_on_error(f"the figures of epoch {epoch} were not tracked; the end of the run sends them again"):
            _send_metrics(connect(self.uri), self.run_id, values, epoch)

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        """Log an image, RGB uint8 [H, W, 3]; MLflow shows the images of one name with a slider over epochs."""
        with _warn_on_error(f"the picture {name} of epoch {epoch} was not tracked"):
            connect(self.uri).log_image(self.run_id, pixels, key=entity_name(name), step=epoch)


class TrainingRun:
    """An active MLflow run; as a context manager it ends as FINISHED, FAILED or, if cancelled, KILLED.

    Within the block, the machine's load is sampled: CPU, memory, disk, network and, if `nvidia-ml-py` is installed,
    GPUs.
    """

    def __init__(self, uri: str, experiment: str, run_id: str, out: Path) -> None:
        self.uri, self.experiment, self.id, self.out = uri, experiment, run_id, out
        self._monitor: Any = None

    @property
    def log(self) -> MlflowLog:
        """The log that the training writes its metrics and images to."""
        return MlflowLog(self.uri, self.id)

    @property
    def link(self) -> str:
        """The run's page on the server, or the database file that contains it."""
        return run_link(self.uri, self.experiment, self.id)

    def log_dataset(
        self, source: str, digest: str, context: Literal["training", "validation"], *, of: str = "photos"
    ) -> None:
        """Log the training or validation set: its content (`of`), its source, and the digest of its items.

        The digest also becomes the tag `dataset_digest` or `validation_digest`. Raises `TrackingError`.
        """
        scheme = source.partition("://")[0] if "://" in source else "local"
        data = Dataset(
            name=f"{context} {of}", digest=digest, source_type=scheme, source=json.dumps({"uri": redact(source)})
        )
        client = connect(self.uri)
        with mlflow_errors(self.uri):
            client.log_inputs(self.id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])
            tag = "dataset_digest" if context == "training" else "validation_digest"
            client.set_tag(self.id, tag, digest)

    def __enter__(self) -> Self:
        with _warn_on_error("the load of the machine is not tracked"):
            self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                self.id, SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=self.uri
            )
            self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._monitor:
            self._monitor.finish()
        retry = f"run the same command with {self.out} to send them"
        with _warn_on_error(f"some epochs were not tracked; {retry}"):
            _send_missing_metrics(connect(self.uri), self.id, self.out / "history.jsonl")
        with _warn_on_error(f"the end of the run was not tracked; run the same command with {self.out} to track it"):
            client = connect(self.uri)
            if error:
                client.set_tag(self.id, "error", f"{type(error).__name__}: {error}"[:1000])
            client.set_terminated(self.id, _status(error))


def open_run(
    out: Path, experiment: str, settings: Mapping[str, Any], tags: Mapping[str, str] | None = None
) -> TrainingRun:
    """Start an MLflow run, or continue the one that an earlier attempt in the folder `out` started in the same store.

    The store is `MLFLOW_TRACKING_URI`, by default a database in the user's data folder. `settings`, which may be
    nested, become parameters. MLflow does not allow a parameter to change, so one that differs from an earlier attempt
    becomes a tag `changed.NAME`. Raises `TrackingError` if MLflow cannot be used.
    """
    uri = tracking_uri()
    client = connect(uri)
    with mlflow_errors(uri):
        run = _find_earlier_run(client, uri, out)
        attempt = 1
        if run is None:
            group = experiment_id(client, uri, experiment)
            run = client.create_run(group, run_name=flow_run.name or out.name)
            # Written at once, so that another attempt finds this run, whatever happens next.
            write_json(out / RECEIPT, {"uri": redact(uri), "experiment": experiment, "run_id": run.info.run_id})
        else:
            attempt = int(run.data.tags.get("attempts", 1)) + 1
            client.update_run(run.info.run_id, status="RUNNING")
            _send_missing_metrics(client, run.info.run_id, out / "history.jsonl")
        log_run_settings(client, run, settings, {**(tags or {}), "attempts": str(attempt)})
    link_from_flow_run(uri, run)
    return TrainingRun(uri, run.info.experiment_id, run.info.run_id, out)


def _find_earlier_run(client: MlflowClient, uri: str, out: Path) -> Run | None:
    if not (out / RECEIPT).exists():
        return None
    receipt = read_json(out / RECEIPT)
    if receipt["uri"] != redact(uri):
        logger.warning("%s was tracked at %s; it goes on as a new run at %s", out, receipt["uri"], redact(uri))
        return None
    try:
        run = client.get_run(receipt["run_id"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        logger.warning("the MLflow run %s of %s was deleted; a new one continues it", receipt["run_id"], out)
        return None
    return run


def _send_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float], epoch: int) -> None:
    now = int(time.time() * 1000)
    client.log_batch(run_id, [Metric(entity_name(name), float(value), now, epoch) for name, value in values.items()])


def _send_missing_metrics(client: MlflowClient, run_id: str, history: Path) -> None:
    logged: dict[str, set[int]] = {}
    for line in read_history(history):
        epoch = line.pop("epoch")
        for name in line.keys() - logged.keys():
            logged[name] = {metric.step for metric in client.get_metric_history(run_id, entity_name(name))}
        if missing := {name: value for name, value in line.items() if epoch not in logged[name]}:
            _send_metrics(client, run_id, missing, epoch)


def _status(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED"
    # Signals, Ctrl-C and the errors by which Prefect ends a flow run are not subclasses of Exception.
    return "FAILED" if isinstance(error, Exception) and not isinstance(error, CancelledRun) else "KILLED"


@contextmanager
def _warn_on_error(consequence: str) -> Iterator[None]:
    """Log any error in the block as a warning."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - failed tracking must not end a training
        logger.warning("%s: %s", consequence, str(error).partition("\n")[0])
