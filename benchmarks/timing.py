"""Processor time of functions, measured in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import psutil


def cpu_seconds() -> float:
    """Return the processor seconds so far of this process and its child processes, such as those that decode."""
    children = os.times()
    running = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    finished = time.process_time() + children.children_user + children.children_system
    return finished + sum(times.user + times.system for times in running)


def fewest_seconds(functions: Sequence[Callable[[], object]], rounds: int = 3) -> list[float]:
    """Return each function's fewest processor seconds; they run in turn, so that a change of speed affects all."""
    fewest = [float("inf")] * len(functions)
    for _ in range(rounds):
        for number, function in enumerate(functions):
            begin = cpu_seconds()
            function()
            fewest[number] = min(fewest[number], cpu_seconds() - begin)
    return fewest
