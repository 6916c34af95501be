"""Prefect as the runner of a recipe: its steps are task runs, in threads of this process or on a Dask cluster."""

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
from tasks.storage_access import open_access

P = ParamSpec("P")
R = TypeVar("R")

Tasks = Mapping[Callable[..., Any], Task[..., Any]]


class PrefectRunner:
    """Runs each step as the task that `tasks` has for it; a task runner that is started takes those of shards."""

    def __init__(self, tasks: Tasks, task_runner: TaskRunner[Any]) -> None:
        self._tasks, self._task_runner = tasks, task_runner

    def run(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one step and return what it returns."""
        run: Any = self._tasks[step]
        result: R = run(*args, **kwargs)
        return result

    def run_shards(self, shards: Sequence[int], *steps: Callable[..., Any], **arguments: Any) -> None:
        """Take each shard through the steps in order, and return when all shards are through.

        Raises the first error of a step; leaving the block of `run_on` then drops what has not begun.
        """
        futures: list[PrefectFuture[Any]] = []
        for shard in shards:
            before: list[PrefectFuture[Any]] = []
            for step in steps:
                parameters = {"shard": shard, **arguments}
                before = [self._task_runner.submit(self._tasks[step], parameters, wait_for=before)]
                futures += before
        for future in as_completed(futures):
            try:
                future.result()
            except UnfinishedRun:
                continue  # not begun, as the step before it failed; that error is among the others


@contextmanager
def run_on(runner: RunnerSettings, tasks: Tasks) -> Iterator[PrefectRunner]:
    """Open the threads or the Dask cluster that `runner` describes, and yield a runner of recipes.

    A task runner in a flow's decorator would be the same for all of its runs. On an error in the block, shards under
    way are finished or given up, and no other shard begins. Raises `ConfigError` without prefect-dask, or if no
    scheduler answers, and `CopytraceError` if workers die repeatedly.
    """
    open_access()
    if runner.kind == "dask":
        # Optional, and it takes half a second to import.
        from tasks.dask_cluster import dask_workers  # noqa: PLC0415

        with dask_workers(runner) as workers:
            yield PrefectRunner(tasks, workers)
        return
    # Steps that overlap limit BLAS to one thread each, and the last would restore what an earlier one had set.
    threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=runner.workers)
    with threadpool_limits(), threads:
        yield PrefectRunner(tasks, threads)
