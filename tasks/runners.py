"""Prefect as the runner of a recipe: each step is a task run, in this process or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from threadpoolctl import threadpool_limits

from configs.runner import Runner as RunnerSettings
from copytrace.lease import current_claims
from tasks.storage_access import open_access

P = ParamSpec("P")
R = TypeVar("R")

Tasks = Mapping[Callable[..., Any], Task[..., Any]]


class PrefectRunner:
    """Runs each step as its task in `tasks`, and the steps of shards on a task runner that has been started."""

    def __init__(self, tasks: Tasks, task_runner: TaskRunner[Any]) -> None:
        self._tasks, self._task_runner = tasks, task_runner

    def run(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one step and return what it returns."""
        run: Any = self._tasks[step]
        result: R = run(*args, claims=current_claims(), **kwargs)
        return result

    def run_shards(self, shards: Sequence[int], *steps: Callable[..., Any], **arguments: Any) -> None:
        """Run the steps in order for each shard, and return when all have finished.

        Raises the first error of a step; leaving the block of `run_on` then cancels the steps that have not begun.
        """
        futures: list[PrefectFuture[Any]] = []
        for shard in shards:
            before: list[PrefectFuture[Any]] = []
            for step in steps:
                parameters = {"shard": shard, **arguments, "claims": current_claims()}
                before = [self._task_runner.submit(self._tasks[step], parameters, wait_for=before)]
                futures += before
        for future in as_completed(futures):
            try:
                future.result()
            except UnfinishedRun:
                continue  # skipped after the failure of an earlier step, whose future raises the error


@contextmanager
def run_on(runner: RunnerSettings, tasks: Tasks) -> Iterator[PrefectRunner]:
    """Open the threads or the Dask cluster that `runner` describes, and yield a runner of recipes.

    It is opened here because a task runner in a flow's decorator would be shared by all of its runs. On an error in the
    block, the shards in progress are finished or abandoned, and no other shard begins. Raises `ConfigError` if
    prefect-dask is missing or no scheduler answers, and `CopytraceError` if workers die repeatedly.
    """
    open_access()
    if runner.kind == "dask":
        # Dask is optional and takes half a second to import.
        from tasks.dask_cluster import dask_workers  # noqa: PLC0415

        with dask_workers(runner) as workers:
            yield PrefectRunner(tasks, workers)
        return
    # Overlapping steps each limit BLAS to one thread, and may restore the limit of another step at their end.
    threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=runner.workers)
    with threadpool_limits(), threads:
        yield PrefectRunner(tasks, threads)
