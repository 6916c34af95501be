"""Servers that several integration tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.service.mlflow_server import MlflowServer
from tasks.service.ports import free_ports
from tasks.service.seaweedfs import SeaweedFS


@pytest.fixture(scope="module")
def stack_folder() -> Iterator[Path]:
    """A folder for a `Stack`, that is removed afterwards.

    As root, PostgreSQL is another user, and cannot get through pytest's own folders.
    """
    folder = Path(tempfile.mkdtemp(prefix="copytrace-stack-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server with an empty bucket `copytrace`: `.endpoint`, `.access_key`, `.secret_key`, `.bucket`.

    `.environment_of_clients` is what botocore, s3fs and MLflow read of it.
    """
    [port] = free_ports(1)
    with SeaweedFS(tmp_path_factory.mktemp("object-store"), port) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty MLflow server, which serves the artifacts too."""
    root, [port] = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    with MlflowServer(root, port, f"sqlite:///{root / 'mlflow.db'}", str(root / "files")) as server:
        yield server.uri
