"""Steps for the tests of Dask, in a module of their own: each worker process imports it, and little else."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path

from copytrace.errors import InputError
from copytrace.lease import current_claims
from copytrace.runtime import usable_cores
from copytrace.storage import write_json
from tasks.step_task import step_task


@step_task("note {shard}")
def note(shard: int, folder: Path) -> None:
    logging.getLogger("copytrace.noting").warning("noting shard %d", shard)
    threads = os.environ["OMP_NUM_THREADS"]
    (folder / f"{shard}.json").write_text(json.dumps({"cores": usable_cores(), "threads": threads, "pid": os.getpid()}))
    time.sleep(0.5)  # so that one process cannot take all shards


@step_task("write {shard}")
def write(shard: int, folder: Path) -> None:
    """Write the tokens of the run into a folder that it holds."""
    write_json(folder / f"{shard}.json", [claim.token for claim in current_claims()])


@step_task("refuse {shard}")
def refuse(shard: int, folder: Path) -> None:
    if shard == 1:
        raise InputError(f"{folder} is empty; give another")


@step_task("stop at {shard}")
def stop_at_one(shard: int, folder: Path) -> None:
    if shard == 1:
        raise InputError("the second shard is bad")
    time.sleep(3)  # shards take longer than their submission
    (folder / str(shard)).touch()


@step_task("die {shard}")
def die(shard: int, folder: Path, times: int) -> None:
    """Kill the process of shard 1, as the kernel does when memory runs out, the first so many times."""
    marks = list(folder.glob("died*"))
    if shard == 1 and len(marks) < times:
        (folder / f"died{len(marks)}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"done{shard}").touch()
