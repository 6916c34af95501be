"""Servers that several integration tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from tasks.service.mlflow_server import MlflowServer
from tasks.service.ports import free_ports
from tasks.service.seaweedfs import SeaweedFS

SECONDS_TO_START = 400  # on a machine that is busy besides


@pytest.fixture(scope="module")
def stack_folder() -> Iterator[Path]:
    """A folder for a `Stack`, that is removed afterwards.

    As root, PostgreSQL is another user, and cannot get through pytest's own folders.
    """
    folder = Path(tempfile.mkdtemp(prefix="copytrace-stack-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def prefect_server() -> Iterator[str]:
    """The URL of a Prefect server, where all flows of this process run; its database was empty when it started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=SECONDS_TO_START):
            yield PREFECT_API_URL.value() or ""


@pytest.fixture(scope="package")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server with an empty bucket `copytrace`: `.endpoint`, `.access_key`, `.secret_key`, `.bucket`.

    `.client_environment` is what botocore, s3fs and MLflow read of it.
    """
    [port] = free_ports(1)
    with SeaweedFS(tmp_path_factory.mktemp("object-store"), port) as server:
        yield server


@pytest.fixture(scope="package")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty MLflow server, which serves the artifacts too."""
    root, [port] = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    with MlflowServer(root, port, f"sqlite:///{root / 'mlflow.db'}", str(root / "files")) as server:
        yield server.uri
