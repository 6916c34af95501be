"""The model registry in MLflow: trainings register models, and matching downloads them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from copytrace.errors import InputError
from copytrace.object_store import redact
from copytrace.runtime import cache_folder
from copytrace.storage import digest_of, digest_of_file, local_copy
from tasks.mlflow_store import connect, database_file, entity_name, mlflow_errors, tracking_uri

if TYPE_CHECKING:
    from tasks.experiment import TrainingRun

CHAMPION = "champion"
"""Alias of the version that matching loads as `models:/NAME@champion`."""

CARD = "README.md"
DESCRIPTION_LENGTH = 5000
"""Characters that MLflow's database keeps of a version's description."""

_COPIED_TAGS = (
    *("git_commit", "git_dirty", "dataset_digest", "validation_digest"),
    *("prefect.flow_run_id", "prefect.flow_name", "prefect.flow_run_url", "prefect.deployment"),
)
_WEIGHTS_DIGEST = "weights_digest"
_MODEL_URI = re.compile(
    r"models:/+(?:(?P<id>m-[0-9a-f]{32})|(?P<name>[^/@:]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[\w-]+)))"
)


def register(
    run: TrainingRun,
    name: str,
    files: Sequence[Path],
    metrics: Mapping[str, float],
    *,
    score: str,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Log the files of a trained model as a LoggedModel, register it under `name`, and return its version.

    The same weights (`*.safetensors`) of a run are registered only once. `metrics` are validation figures, and `score`
    names the one that decides promotions. They become tags of the version, as do the run's tags for its data and code.
    A README.md among the files becomes the version's description.

    Raises `InputError` if no file is `*.safetensors`, and `TrackingError`.
    """
    if not any(file.suffix == ".safetensors" for file in files):
        raise InputError(f"no .safetensors among the files of {name}: {', '.join(map(str, files)) or 'none'}")
    digest, client = _digest_of_weights(files), connect(run.uri)
    with mlflow_errors(run.uri):
        for version in client.search_model_versions(f"name = '{name}' and run_id = '{run.id}'"):
            if version.tags.get(_WEIGHTS_DIGEST) == digest:
                return int(version.version)
        known = client.get_run(run.id).data.tags
        evidence = {tag: known[tag] for tag in _COPIED_TAGS if tag in known}
        evidence |= {f"validation.{metric}": repr(float(value)) for metric, value in metrics.items()}
        evidence |= {"score": score, _WEIGHTS_DIGEST: digest, "mlflow_run_id": run.id, **(tags or {})}
        model = _log_model(client, run, name, files, metrics, evidence)
        return _create_version(client, run, name, model, evidence, files)


def download(uri: str) -> Path:
    """Return a local folder with the files of `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/m-…`.

    A version never changes, so it is downloaded only once, into `cache_folder()`. Raises `InputError` for a URI of
    another form, for a model, version or alias that does not exist, and for weights that are not those that were
    registered, and `TrackingError` if MLflow does not answer.
    """
    parts = _MODEL_URI.fullmatch(uri)
    if parts is None:
        raise InputError(f"{uri!r} is not a model URI; write models:/NAME@champion, models:/NAME/3 or models:/m-…")
    folder = cache_folder() / "registry" / (parts["id"] or "")
    if parts["id"] and folder.exists():
        return folder
    client, store = open_registry()
    with mlflow_errors(store):
        if parts["id"]:
            location, tags = _logged_model(client, parts["id"])
        else:
            version = find_version(client, parts["name"], parts["alias"] or int(parts["version"]))
            location = client.get_model_version_download_uri(version.name, str(version.version))
            tags = version.tags
            own = digest_of(redact(store), version.name, int(version.version))
            folder = folder / version.tags.get("model_id", f"{version.name}-{version.version}-{own}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # only one process downloads
            if not folder.exists():
                _fetch(location, store, folder, uri, tags.get(_WEIGHTS_DIGEST))
    return folder


def _digest_of_weights(files: Sequence[Path]) -> str:
    weights = sorted((file for file in files if file.suffix == ".safetensors"), key=lambda file: file.name)
    return digest_of([digest_of_file(file) for file in weights])


def open_registry() -> tuple[MlflowClient, str]:
    """Return a client of the registry and its URI. Raises `InputError` if no model was ever registered."""
    uri = tracking_uri()
    database = database_file(uri)
    if database and not database.exists():
        raise InputError(
            f"no model is registered yet: there is no {database}; train one, or set MLFLOW_TRACKING_URI to your server"
        )
    return connect(uri), uri


def find_version(client: MlflowClient, name: str, selector: int | str | None) -> ModelVersion:
    """Return a version by number or alias (None: the latest). Raises `InputError` if there is none."""
    aliases, newest = read_aliases(client, name), newest_versions(client, name)
    latest = int(newest[0].version) if newest else None
    number = aliases.get(selector) if isinstance(selector, str) else selector or latest
    if isinstance(selector, str) and number is None:
        advice = f"run `copytrace promote {name} {latest or 'VERSION'}`" if selector == CHAMPION else "set it in MLflow"
        raise InputError(f"no version of {name} is its @{selector} yet; {advice}, or name a version: models:/{name}/1")
    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        raise InputError(f"{name} has no version {number}; its latest is {latest or 'none'}") from error


def newest_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return the 200 newest versions of a model, newest first."""
    return list(client.search_model_versions(f"name = '{name}'", 200, ["version_number DESC"]))


def read_aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Return the version number of every alias of a model. Raises `InputError` if there is no such model."""
    try:
        aliases: Mapping[str, str | int] = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(
            f"no model {name!r} is registered in MLflow at {redact(tracking_uri())}; `copytrace models` lists what is"
        ) from error
    return {alias: int(version) for alias, version in aliases.items()}


def _log_model(
    client: MlflowClient,
    run: TrainingRun,
    name: str,
    files: Sequence[Path],
    metrics: Mapping[str, float],
    evidence: Mapping[str, str],
) -> LoggedModel:
    """Return the run's LoggedModel of these weights, created or completed if necessary."""
    same = f"source_run_id = '{run.id}' AND name = '{name}' AND tags.{_WEIGHTS_DIGEST} = '{evidence[_WEIGHTS_DIGEST]}'"
    found = client.search_logged_models([run.experiment], filter_string=same)
    model = found[0] if found else client.create_logged_model(run.experiment, name, run.id, dict(evidence))
    if model.status == "READY":
        return model
    for file in files:
        with local_copy(file) as here:
            client.log_model_artifact(model.model_id, str(here))
    now, identity = int(datetime.now(UTC).timestamp() * 1000), model.model_id
    figures = [
        Metric(f"best.{entity_name(metric)}", value, now, 0, model_id=identity) for metric, value in metrics.items()
    ]
    client.log_batch(run.id, figures)
    outputs = client.get_run(run.id).outputs
    if identity not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run.id, [LoggedModelOutput(identity, 0)])
    return client.finalize_logged_model(identity, "READY")


def _create_version(
    client: MlflowClient,
    run: TrainingRun,
    name: str,
    model: LoggedModel,
    evidence: Mapping[str, str],
    files: Sequence[Path],
) -> int:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Without a server, MLflow 3.17 looks up a models:/ URI in its default store instead of this one.
    source = f"models:/{model.model_id}" if run.uri.startswith("http") else model.artifact_location
    card = next((file.read_text(encoding="utf-8") for file in files if file.name == CARD), None)
    version = client.create_model_version(
        name,
        source,
        run.id,
        tags={**evidence, "model_id": model.model_id, "validation_status": "pending"},
        description=card and card[:DESCRIPTION_LENGTH],
        await_creation_for=0,
        model_id=model.model_id,
    )
    return int(version.version)


def _logged_model(client: MlflowClient, model_id: str) -> tuple[str, Mapping[str, str]]:
    """Return where the files of a LoggedModel are, and its tags."""
    try:
        model = client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(f"there is no model {model_id} in MLflow at {redact(tracking_uri())}") from error
    return str(model.artifact_location), model.tags


def _fetch(location: str, store: str, folder: Path, uri: str, digest: str | None) -> None:
    """Download the files at `location` into `folder`, if their weights have the `digest` that was registered."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary, suppress(FileNotFoundError):
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=temporary, tracking_uri=store))
        if any(found.iterdir()):
            if digest is not None and digest != _digest_of_weights(list(found.iterdir())):
                raise InputError(
                    f"the weights of {uri} at {redact(location)} are not those that were registered; find out who "
                    "changed them, and register the model again"
                )
            found.rename(folder)
            return
    raise InputError(f"the files of {uri} are gone from {redact(location)}; register the model again")
