"""Dask: workers on this machine, or of a scheduler elsewhere, that run the steps of shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from configs.runner import Runner
from copytrace.errors import ConfigError, CopytraceError
from copytrace.runtime import CORES, usable_cores

SECONDS_TO_CONNECT = 10
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@contextmanager
def dask_workers(runner: Runner) -> Iterator[TaskRunner[Any]]:
    """Start a cluster of `runner.workers` processes, or connect to the scheduler at `runner.address`.

    Each local process works on one shard at a time, with its share of the cores. Raises `ConfigError` if prefect-dask
    is missing or no scheduler answers, and `CopytraceError` if several workers in a row die of the same shard.
    """
    if find_spec("prefect_dask") is None:
        raise ConfigError("prefect-dask is not installed; pip install 'copytrace[dask]', or use runner.kind: threads")
    from distributed import KilledWorker  # noqa: PLC0415

    with ExitStack() as stack:
        stack.enter_context(_share_flow_server())
        task_runner = stack.enter_context(
            _connect_cluster(runner.address) if runner.address else _start_cluster(runner.workers)
        )
        try:
            yield task_runner
        except KilledWorker as error:
            raise CopytraceError(
                f"{error.allowed_failures + 1} Dask workers died in a row of the same shard; if memory ran out, make "
                "shards smaller (media.shard_size) or workers fewer; what was finished is kept"
            ) from error


@contextmanager
def _connect_cluster(address: str) -> Iterator[TaskRunner[Any]]:
    from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415

    with DaskTaskRunner(address=address, client_kwargs={"timeout": SECONDS_TO_CONNECT}) as task_runner:
        try:
            workers = task_runner.client.nthreads()
        except OSError as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address}; start `dask scheduler` there, or use runner.kind: threads"
            ) from error
        if not workers:
            get_run_logger().warning("the Dask scheduler at %s has no workers yet; shards wait for the first", address)
        if crowded := sorted(worker for worker, threads in workers.items() if threads > 1):
            get_run_logger().warning(
                "%s works on several shards at once and needs memory for each; `dask worker --nthreads 1` avoids that",
                crowded[0],
            )
        yield task_runner


@contextmanager
def _start_cluster(workers: int) -> Iterator[TaskRunner[Any]]:
    import dask  # noqa: PLC0415
    from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415

    share = max(1, usable_cores() // workers)
    # These must be set before a process starts, because libraries size their thread pools when they are loaded.
    shares = dict.fromkeys((CORES, *THREAD_VARIABLES), share)
    environment = shares | {"DASK_LOGGING__DISTRIBUTED": "warning"}
    cluster = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        _keep_variables(shares),  # Dask prefers what is set here, for all cores, and sets here what the processes get
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        DaskTaskRunner(cluster_kwargs=cluster) as task_runner,
    ):
        _set_log_level(logging.WARNING)
        try:
            yield task_runner
        finally:
            _set_log_level(logging.ERROR)  # ending processes with large libraries takes longer than Dask's four seconds


@contextmanager
def _keep_variables(names: Iterable[str]) -> Iterator[None]:
    """Unset environment variables, and set them at the end as they were."""
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _set_log_level(level: int) -> None:
    # Dask logs every process and connection.
    for name in ("distributed", "distributed.nanny"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def _share_flow_server() -> Iterator[None]:
    # Without PREFECT_API_URL, each process would start its own server; the workers must use that of the flow.
    run = FlowRunContext.get()
    if run is None or PREFECT_API_URL.value():
        yield
        return
    with temporary_settings({PREFECT_API_URL: str(run.client.api_url)}):
        yield
