"""Servers that several integration tests share."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import s3fs
from filelock import FileLock
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL

from tasks.service.mlflow_server import MlflowServer
from tasks.service.ports import Ports, free_ports
from tasks.service.seaweedfs import SeaweedFS
from tasks.service.server_process import PID_SUFFIX, stop_leftovers
from tasks.service.stack import Stack
from tests.integration.faulty_proxy import FaultyProxy

SECONDS_TO_START = 400  # on a machine that is busy besides
KEYS_OF_ANOTHER_STORE = {"AWS_ACCESS_KEY_ID": "key-of-another", "AWS_SECRET_ACCESS_KEY": "secret-of-another"}
# They serve deployments, workers, schedules and automations, which only the stack has.
NEEDLESS_SERVICES = ("CANCELLATION_CLEANUP", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER", "TRIGGERS")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that ends the shared stack behind all others, whichever files are asked for and in which order."""
    items.sort(key=lambda item: item.get_closest_marker("ends_the_stack") is not None)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """All servers, the deployments of prefect.yaml, and a worker of the pool `cpu`, for all tests that need them.

    As root, PostgreSQL is another user, and cannot get through pytest's own folders.
    """
    folder = Path(tempfile.mkdtemp(prefix="copytrace-stack-"))
    folder.chmod(0o711)
    with Stack(folder, ports=Ports.pick_free()) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def prefect(stack: Stack) -> Iterator[SyncPrefectClient]:
    """A client of the stack's Prefect server."""
    with stack.connect() as client:
        yield client


@pytest.fixture(scope="package")
def prefect_server(shared_cache: Path) -> Iterator[str]:
    """The URL of a Prefect server, where all flows of this process run; its database was empty when it started.

    The database, which takes as long to make as the server to start, is a copy of that of the first worker process.
    """
    from prefect.testing import utilities  # here, as it takes seconds to import  # noqa: PLC0415

    folder, empty = Path(tempfile.mkdtemp()), shared_cache.parent / "empty-prefect.db"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("PREFECT_API_BLOCKS_REGISTER_ON_START", "false")  # a block that is saved registers its own type
        for service in NEEDLESS_SERVICES:
            patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))  # where the harness has its database
        with FileLock(empty.with_suffix(".lock")):
            if empty.exists():
                shutil.copyfile(empty, folder / "prefect-test.db")
            running.enter_context(utilities.prefect_test_harness(server_startup_timeout=SECONDS_TO_START))
            if not empty.exists():
                copy_database(folder / "prefect-test.db", empty)
        yield PREFECT_API_URL.value() or ""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database of SQLite that is in use."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target.with_suffix(".part"))) as written:
        read.backup(written)
    target.with_suffix(".part").rename(target)


@pytest.fixture(scope="package")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server with an empty bucket `copytrace`: `.endpoint`, `.access_key`, `.secret_key`, `.bucket`.

    `.client_environment` is what botocore, s3fs and MLflow read of it. Whoever starts it has keys of another store.
    """
    [port] = free_ports(1)
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEYS_OF_ANOTHER_STORE.items():
                patch.setenv(name, value)
            server = SeaweedFS(tmp_path_factory.mktemp("object-store"), port)
            running.enter_context(server)
        yield server


@pytest.fixture(scope="module")
def store(object_store: SeaweedFS) -> Iterator[str]:
    """The URI of an empty bucket, its keys and endpoint in the environment, as a worker has them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.client_environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield f"s3://{object_store.bucket}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def proxy(object_store: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before that store, which clients take for the store."""
    with FaultyProxy(int(object_store.endpoint.rpartition(":")[2])) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.server_port}"}
        for name, value in (object_store.client_environment | address).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
        s3fs.S3FileSystem.clear_instance_cache()
        running.shutdown()


@pytest.fixture(scope="session")
def empty_mlflow_database(shared_cache: Path) -> Path:
    """A database of MLflow without a run, to be copied: to make one takes five seconds."""
    path = shared_cache.parent / "empty-mlflow.db"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            part = path.with_suffix(".part")
            MlflowClient(f"sqlite:///{part}").search_experiments()
            part.rename(path)
    return path


@pytest.fixture(scope="package")
def mlflow_server(shared_cache: Path, empty_mlflow_database: Path) -> Iterator[str]:
    """The URI of an MLflow server, which serves the artifacts too: one for all worker processes.

    The first that needs it starts it, the last stops it, and models have other names in each file of tests.
    """
    root = shared_cache.parent / "mlflow-server"
    root.mkdir(parents=True, exist_ok=True)
    users, uri, log = root / "users", root / "uri", root / "mlflow.log"
    with FileLock(root / "lock"):
        others = len(users.read_text()) if users.exists() else 0
        if not others:
            [port] = free_ports(1)
            shutil.copyfile(empty_mlflow_database, root / "mlflow.db")
            server = MlflowServer(root, port, f"sqlite:///{root / 'mlflow.db'}", str(root / "files"), log=log)
            server.start()
            server.wait(SECONDS_TO_START)
            uri.write_text(server.uri)
        users.write_text("x" * (others + 1))
    yield uri.read_text()
    with FileLock(root / "lock"):
        users.write_text("x" * (len(users.read_text()) - 1))
        if not users.read_text():
            stop_leftovers(log.with_suffix(PID_SUFFIX))
