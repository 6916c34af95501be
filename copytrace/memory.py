"""Memory of this process: its peak, and what its allocators keep, which goes back to the system after each step.

A process that matches for weeks would otherwise hold what its largest steps took, in each of the C library's heaps (up
to eight per core, 64 MiB each) and in Arrow's.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pyarrow as pa

# Parameters of mallopt(3), by their numbers in glibc's malloc.h, and their values in bytes. By default, glibc raises
# both until a heap keeps up to 64 MiB at its end.
_TRIM_THRESHOLD, _MOST_KEPT = -1, 16 << 20  # with 4 MiB, a match took a tenth longer
_MMAP_THRESHOLD, _LARGEST_IN_HEAP = -3, 32 << 20  # the most that glibc takes


def return_free_memory() -> None:
    """Return what was freed to the system, as far as the allocators can, and let heaps keep little from now on."""
    pa.default_memory_pool().release_unused()
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return glibc, whose heaps keep at most 16 MiB at their ends from now on; None where another library allocates."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return None
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
    return library


def peak_memory_mib() -> float:
    """Return the most resident memory that this process has had, in MiB.

    On Linux, `ru_maxrss` is that of the process that started this one, if that was larger.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
