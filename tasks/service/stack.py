"""The stack: all servers that Copytrace uses, on one machine, started and stopped in order."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.service.mlflow_server import MlflowLogin, MlflowServer
from tasks.service.ports import Ports
from tasks.service.postgresql import PostgreSQL
from tasks.service.prefect_server import PrefectServer
from tasks.service.seaweedfs import SeaweedFS
from tasks.service.secrets import read_or_create_secret, write_private
from tasks.service.server_process import PID_SUFFIX, ServerError, ServerProcess, stop_leftovers
from tasks.service.setup import CPU_POOL, GPU_POOL, required_resources, set_up
from tasks.service.watch_process import WatchProcess
from tasks.service.worker import Worker

PROJECT = Path(__file__).parents[2]
SECONDS_TO_DEPLOY = 300


class Stack:
    """PostgreSQL, an object store, Prefect's and MLflow's servers, the deployments, a worker per pool, and the watch.

    All data lie in `folder`, and a second start continues from them. As a context manager, the stack runs for the
    length of the block. `environment` holds the variables that a client needs, including the keys of the object store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ports: Ports | None = None,
        gpus: Sequence[str] = (),
        project: Path = PROJECT,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare the stack without starting anything.

        Each of `gpus`, named as in CUDA_VISIBLE_DEVICES, gets its own worker. `project` is the folder of prefect.yaml
        and the flows. `report` is called with a line about what is being started.
        """
        self.folder, self.logs, self._project, self._report = (
            folder.resolve(),
            folder.resolve() / "logs",
            project,
            report,
        )
        self._ports, self._gpus = ports, gpus
        self.bucket = ""
        self.environment: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self.processes: list[ServerProcess] = []
        self._lock = FileLock(self.folder / "lock", timeout=0)

    def start(self) -> None:
        """Start everything and return when it is ready. Raises `ServerError`, after stopping what was started."""
        if not (self._project / "prefect.yaml").exists():
            raise ServerError(f"there is no prefect.yaml in {self._project}: run this in the project")
        # The user that runs PostgreSQL must be able to enter the folder; all that lies in it is private to its owner.
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        for private in (self.logs, self.folder / "secrets"):
            private.mkdir(mode=0o700, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ServerError(
                f"a stack runs in {self.folder} already: stop that one, or give another folder"
            ) from error
        try:
            for record in sorted(self.logs.glob(f"*{PID_SUFFIX}"), reverse=True):  # workers before the servers
                stop_leftovers(record)
            self._start(self._ports or Ports.pick_usual())
        except BaseException:
            self.stop()
            raise

    def _start(self, ports: Ports) -> None:
        began, secrets = time.monotonic(), self.folder / "secrets"
        database = PostgreSQL(
            self.folder / "postgresql", ports.postgresql, secrets=secrets, log=self._log("postgresql")
        )
        store = SeaweedFS(self.folder / "objects", ports.s3, secrets=secrets, log=self._log("seaweedfs"))
        self._start_servers(f"PostgreSQL, on {database.data}, and SeaweedFS", database, store)
        inherited = {**os.environ, **database.client_environment}
        prefect = PrefectServer(
            *(self._make_folder("prefect"), ports.prefect, database.url("prefect", "asyncpg")),
            password=read_or_create_secret(secrets / "prefect-password"),
            log=self._log("prefect"),
            environment=inherited,
        )
        mlflow = MlflowServer(
            *(
                self._make_folder("mlflow"),
                ports.mlflow,
                database.url("mlflow", "psycopg"),
                f"s3://{store.bucket}/mlflow",
            ),
            login=MlflowLogin.of(secrets, database.url("mlflow_accounts", "psycopg")),
            log=self._log("mlflow"),
            environment={**inherited, **store.client_environment},
        )
        self._start_servers("the servers of Prefect and MLflow", prefect, mlflow)
        self.bucket = store.bucket
        self.environment = {
            **prefect.client_environment,
            **mlflow.client_environment,
            **store.client_environment,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        self.addresses = {
            "Prefect": prefect.ui,
            "MLflow": mlflow.uri,
            "S3": f"{store.endpoint}, bucket {store.bucket}",
            "PostgreSQL": f"PGPASSFILE={database.passfile} {database.shell('prefect')}",
        }
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        write_private(self.folder / "environment", exports)
        self._report("setting up pools and limits; deploying the flows")
        with self.connect() as client:
            set_up(client, required_resources(gpus=len(self._gpus) or None))
        self._deploy()
        self._start_workers()
        self._report(f"ready after {time.monotonic() - began:.0f} s")

    def _start_workers(self) -> None:
        """Start the workers of the pools, and the watch of their runs."""
        workers = [self._worker(CPU_POOL, {})]
        workers += [self._worker(GPU_POOL, {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in self._gpus]
        watch = WatchProcess(project=self._project, log=self._log("watch"), environment=self._client_environment())
        self._start_servers(" and ".join(each.name for each in (watch, *workers)), watch, *workers)

    @contextmanager
    def connect(self) -> Iterator[SyncPrefectClient]:
        """Yield a client of the running stack's Prefect server."""
        settings = {PREFECT_API_URL: "PREFECT_API_URL", PREFECT_API_AUTH_STRING: "PREFECT_API_AUTH_STRING"}
        with (
            temporary_settings({setting: self.environment[name] for setting, name in settings.items()}),
            get_client(sync_client=True) as client,
        ):
            yield client

    def stop(self) -> None:
        """Stop everything: workers first, databases last. Stored data stay."""
        for kind in ((Worker, WatchProcess), (PrefectServer, MlflowServer), ServerProcess):
            group = [process for process in self.processes if isinstance(process, kind)]
            for process in group:
                process.request_stop()
            for process in group:
                process.stop()
                self.processes.remove(process)
        self._lock.release()

    def watch(self, every: float = 1.0) -> None:
        """Wait until a server ends, and raise a `ServerError` that names it."""
        while True:
            for process in self.processes:
                if process.exit_code is not None:
                    raise ServerError(process.exit_message())
            time.sleep(every)

    def __enter__(self) -> Self:
        """Start everything."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop everything."""
        self.stop()

    def _start_servers(self, title: str, *servers: ServerProcess) -> None:
        self._report(f"starting {title}")
        self.processes += servers
        for server in servers:
            server.start()
        for server in servers:
            server.wait()

    def _worker(self, pool: str, own: Mapping[str, str]) -> Worker:
        name = "-".join([pool, *own.values()])
        environment = {**self._client_environment(), **own}
        return Worker(name, pool, project=self._project, log=self._log(f"worker-{name}"), environment=environment)

    def _client_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "PREFECT_HOME": str(self._make_folder("prefect"))}

    def _deploy(self) -> None:
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        environment = {**os.environ, **self.environment}
        with self._log("deploy").open("wb") as log:
            done = subprocess.run(  # noqa: S603 - the command is ours
                deploy,
                cwd=self._project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=SECONDS_TO_DEPLOY,
                check=False,
            )
        if done.returncode:
            raise ServerError(f"the flows were not deployed: see {self._log('deploy')}")

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _make_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, named as in CUDA_VISIBLE_DEVICES: those that it lists; if it is not set, all."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if not listed.returncode else 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and count:
        return [name for name in chosen.split(",") if name]
    return [str(number) for number in range(count)]
