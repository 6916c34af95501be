"""Runs of Prefect that do nothing but live, with quick heartbeats, forked from one process, as imports take seconds.

    python -m tests.integration.beating UNTIL NAME=SECONDS …

Each run is called NAME, has a clock that is wrong by SECONDS, and ends when the file UNTIL exists; but one that is
called `stalled` does not move. Prefect allows no shorter interval of heartbeats than thirty seconds; here it is one.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import prefect.flow_engine
import prefect.types._datetime
from prefect import flow, tags

from configs.images import ImageSettings
from copytrace.stall import LIMIT
from copytrace.step import current_progress
from tasks.limits import cpu_slots
from tasks.service.run_watch import TAG
from tasks.step_task import step_task

engine: Any = prefect.flow_engine
datetimes: Any = prefect.types._datetime


@step_task("nap", cpu_slots)
def nap(seconds: float, settings: ImageSettings) -> None:
    with current_progress().step("nap", 2, "halves") as step:
        for _ in range(2):
            time.sleep(seconds / 2)
            step.advance()


@flow(name="beating")
def beating(until: str, seconds: float) -> None:
    settings = ImageSettings()
    while not Path(until).exists():
        nap(seconds, settings)


def run(name: str, until: str, wrong_by: float) -> int:
    right_now = datetimes.now
    datetimes.now = lambda *zone: right_now(*zone) + timedelta(seconds=wrong_by)
    engine.MINIMUM_HEARTBEAT_INTERVAL = 1
    engine.BaseFlowRunEngine.heartbeat_seconds = property(lambda self: 1)
    if name == "stalled":
        os.environ[LIMIT] = "0.1"
    with tags(TAG):
        beating.with_options(flow_run_name=name)(until, 1200 if name == "stalled" else 2)
    return 0


if __name__ == "__main__":
    until, *given = sys.argv[1:]
    for name, _, seconds in (each.partition("=") for each in given):
        if child := os.fork():
            print(name, child, flush=True)
        else:
            os._exit(run(name, until, float(seconds)))
    for _ in given:
        os.wait()
