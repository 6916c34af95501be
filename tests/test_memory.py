"""Memory that was freed goes back to the system."""

from __future__ import annotations

import sys

import pytest

from tests.child_processes import run_python

# Rounds of threads that allocate as steps do, of which little stays: large and small blocks, and a table of Arrow.
ROUNDS = """
import sys, threading
import numpy as np, psutil, pyarrow as pa
from copytrace.memory import return_free_memory

kept = []

def work():
    large = [np.ones(1 << 19) for _ in range(12)]
    small = [bytes(3000) for _ in range(10_000)]
    table = pa.array(np.arange(1 << 20)).cast(pa.string())
    kept.append(small[::500])

for number in range(4):
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if sys.argv[1] == "return":
        return_free_memory()
    print(psutil.Process().memory_full_info().uss >> 20)
"""


def held(mode: str) -> list[int]:
    """MiB that a process holds after each round."""
    return [int(line) for line in run_python("-c", ROUNDS, mode).stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be asked for it")
def test_what_threads_and_tables_freed_goes_back_to_the_system() -> None:
    last = held("return")[-1]
    assert last < 240  # of which six heaps may keep 16 at their ends
    assert held("keep")[-1] > 2 * last


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process itself")
def test_the_peak_is_that_of_this_process_and_not_of_the_larger_one_that_started_it() -> None:
    peak = "from copytrace.memory import peak_memory_mib; print(peak_memory_mib())"
    larger = f"import subprocess, sys; kept = b'x' * 400_000_000; subprocess.run([sys.executable, '-c', {peak!r}])"
    assert 0 < float(run_python("-c", larger).stdout) < 300
