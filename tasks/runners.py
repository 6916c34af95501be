"""Runners: the shards of a run go through their stages in threads of this process, or in those of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from threadpoolctl import threadpool_limits

from configs.runner import Runner


class Shards:
    """Takes shards through their stages, where a `TaskRunner` that is started has room for them."""

    def __init__(self, runner: TaskRunner[Any]) -> None:
        self._runner = runner

    def each(self, shards: Sequence[int], *stages: Task[..., Any], **arguments: Any) -> None:
        """Run the stages on each shard, one after the other, and return when all shards have gone through them.

        Stages take the shard's number as `shard`, and the `arguments`. Raises the first error that a stage ends with;
        leaving the block of `shards_on` then drops what was not begun.
        """
        done: list[PrefectFuture[Any]] = []
        for shard in shards:
            before: list[PrefectFuture[Any]] = []
            for stage in stages:
                before = [self._runner.submit(stage, {"shard": shard, **arguments}, wait_for=before)]
                done += before
        for future in as_completed(done):
            try:
                future.result()
            except UnfinishedRun:
                continue  # not begun, as the stage before it failed; that one's error is among the others


@contextmanager
def shards_on(runner: Runner) -> Iterator[Shards]:
    """Open the threads or the Dask cluster that `runner` asks for: `with shards_on(runner) as shards: …`.

    A task runner in a flow's decorator would be the same for all its runs. On an error in the block, shards that are
    under way are finished or given up, and no other is begun. Raises `ConfigError` without prefect-dask, or where no
    scheduler answers, and `CopytraceError` when workers die over and over.
    """
    if runner.kind == "dask":
        # Optional, and it takes half a second to import.
        from tasks.dask_cluster import dask_workers  # noqa: PLC0415

        with dask_workers(runner) as workers:
            yield Shards(workers)
        return
    # Stages that overlap limit BLAS to one thread each, and the last would restore what an earlier one had set.
    threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=runner.workers)
    with threadpool_limits(), threads:
        yield Shards(threads)
