"""Links between MLflow and Prefect: tags of an MLflow run name its origin, and a flow run's page links to it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags
from prefect.artifacts import create_link_artifact
from prefect.runtime import deployment, flow_run

from configs.load import flatten
from copytrace.object_store import redact
from tasks.mlflow_store import run_link

ROOT = Path(__file__).parents[1]
PACKAGES = ("copytrace", "torch", "torchvision", "timm", "numpy", "opencv-python-headless", "mlflow", "prefect")
FLOW_RUN = "prefect.flow_run_id"
SECONDS_FOR_GIT = 30


def origin_tags() -> dict[str, str]:
    """Return tags for the origin of an MLflow run: code, libraries, machine, flow run and deployment."""
    tags = {"host": platform.node(), **_code_tags()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            tags[f"version.{package}"] = version(package)
    if flow_run.id:
        tags[FLOW_RUN] = str(flow_run.id)
        tags["prefect.flow_name"] = flow_run.flow_name or ""
        tags["prefect.flow_run_url"] = flow_run.ui_url or ""
        tags["prefect.deployment"] = deployment.name or ""
    return tags


def find_run(client: MlflowClient, experiment: str) -> Run | None:
    """Return the MLflow run that an earlier attempt of this flow run created in the experiment with that id, if any."""
    if not flow_run.id:
        return None
    found = client.search_runs([experiment], f"tags.`{FLOW_RUN}` = '{flow_run.id}'", max_results=1)
    return found[0] if found else None


def log_run_settings(client: MlflowClient, run: Run, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Log settings, which may be nested, as parameters, and add `tags` and the `origin_tags`.

    MLflow does not allow a parameter to change, so one that differs from an earlier attempt becomes a tag
    `changed.NAME`.
    """
    given = {name: str(value) for name, value in flatten(settings).items()}
    known = run.data.params
    changed = {f"changed.{name}": text for name, text in given.items() if known.get(name, text) != text}
    all_tags = resolve_tags({**origin_tags(), **tags})
    client.log_batch(
        run.info.run_id,
        params=[Param(name, text) for name, text in given.items() if name not in known],
        tags=[RunTag(name, text) for name, text in {**all_tags, **changed}.items()],
    )


def link_from_flow_run(uri: str, run: Run) -> None:
    """Link to the MLflow run on the page of the current flow run, if there is one."""
    if flow_run.id:
        identity = run.info.run_id
        link = run_link(uri, run.info.experiment_id, identity)
        create_link_artifact(link, f"MLflow run {identity}", key="mlflow-run", description=f"Tracked at {redact(uri)}")


def _code_tags() -> dict[str, str]:
    git = shutil.which("git")
    # An installed package has no repository; it may lie in a virtual environment inside another project's.
    if git is None or not (ROOT / ".git").exists():
        return {}

    def ask_git(*arguments: str) -> str:
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(  # noqa: S603 - our own command
                [git, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_FOR_GIT, check=False
            )
            return done.stdout.strip() if done.returncode == 0 else ""
        return ""

    if not (commit := ask_git("rev-parse", "HEAD")):
        return {}
    dirty = bool(ask_git("status", "--porcelain"))
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": str(dirty).lower()}
