"""Processor time of functions, measured in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence


def cpu_seconds() -> float:
    """Return the processor seconds of this process and of its finished child processes so far."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def fewest_seconds(functions: Sequence[Callable[[], object]], rounds: int = 3) -> list[float]:
    """Return each function's fewest processor seconds; they run in turn, so that a change of speed affects all."""
    fewest = [float("inf")] * len(functions)
    for _ in range(rounds):
        for number, function in enumerate(functions):
            begin = cpu_seconds()
            function()
            fewest[number] = min(fewest[number], cpu_seconds() - begin)
    return fewest
