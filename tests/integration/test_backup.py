"""The commands of docs/operate.md that back up a stack, and restore it into a new one, keep what only the stack has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import mlflow
import pytest

from tasks.service.ports import Ports
from tasks.service.server_process import ServerError
from tasks.service.stack import Stack
from tasks.service.upgrade import upgrade

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "operate.md").read_text(encoding="utf-8")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which PostgreSQL's user finds the stack, with the scripts of this project."""
    folder = Path(tempfile.mkdtemp(prefix="copytrace-backup-"))
    folder.chmod(0o711)
    (folder / "deploy").symlink_to(PROJECT / "deploy")
    yield folder
    shutil.rmtree(folder)


def command_of(begin: str) -> str:
    """The only line of the page that begins so."""
    [line] = re.findall(rf"^ *({re.escape(begin)}.*)$", PAGE, re.MULTILINE)
    return str(line)


def run(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def connect_to_store() -> Any:
    """A client with the keys of the environment as it is now: boto3's own session keeps those that it saw first."""
    return boto3.Session().client("s3")


def use(stack: Stack, patch: pytest.MonkeyPatch) -> None:
    for name, value in stack.environment.items():
        patch.setenv(name, value)
    mlflow.set_tracking_uri(stack.environment["MLFLOW_TRACKING_URI"])


def test_a_backup_is_restored_into_a_new_stack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stack(folder / "stack", ports=Ports.pick_free()) as stack:
        use(stack, monkeypatch)
        connect_to_store().put_object(Bucket=stack.bucket, Key="out/a folder/ä.csv", Body=b"kept")
        with mlflow.start_run() as made:
            mlflow.log_metric("recall", 0.5)
            mlflow.log_text("of a model", "weights.txt")
        with stack.connect() as client:
            deployment = client.read_deployment_by_name("match-images/cpu")
            parameters = {"queries": "a", "references": "b", "out": "c"}
            before = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        secrets = {path.name: path.read_bytes() for path in (folder / "stack" / "secrets").glob("*-*")}
        assert "three databases" in run(command_of("sh deploy/backup.sh"), folder)
    assert not [path for path in (folder / "backup").rglob("*") if path.stat().st_mode & 0o077]
    (folder / "stack").rename(folder / "lost")
    run(command_of("mkdir -m 711 stack"), folder)
    run(command_of("cp -R backup/secrets"), folder)
    with Stack(folder / "stack", ports=Ports.pick_free()):
        assert "start it again" in run(command_of("sh deploy/restore.sh"), folder)
        with pytest.raises(ServerError, match="runs: stop it, and give the same command again"):
            upgrade(folder / "stack")
    upgrade(folder / "stack")
    with Stack(folder / "stack", ports=Ports.pick_free()) as stack:
        use(stack, monkeypatch)
        store = connect_to_store()
        assert store.get_object(Bucket=stack.bucket, Key="out/a folder/ä.csv")["Body"].read() == b"kept"
        assert mlflow.get_run(made.info.run_id).data.metrics == {"recall": 0.5}
        assert mlflow.artifacts.load_text(f"{made.info.artifact_uri}/weights.txt") == "of a model"
        with stack.connect() as client:
            after = client.read_flow_run(before.id)
        assert (after.name, after.parameters) == (before.name, before.parameters)
        assert {name: (folder / "stack" / "secrets" / name).read_bytes() for name in secrets} == secrets
        answer = httpx.get(f"{stack.environment['PREFECT_API_URL']}/flow_runs/{before.id}")
        assert answer.status_code == 401
