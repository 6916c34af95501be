"""What each stage cost: a small JSON file beside its output, written only when the stage really ran."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from copytrace.storage import write_json


@dataclass(frozen=True, slots=True)
class Record:
    """Units done by a stage, its seconds, and the process's peak resident memory in MiB when it ended."""

    stage: str
    count: int
    seconds: float
    peak_memory_mib: float


@contextmanager
def recorded(path: Path, stage: str, count: int) -> Iterator[dict[str, Any]]:
    """Time the block and, if it ends well, write its record to `path`, with what was put into the yielded dict."""
    extra: dict[str, Any] = {}
    begin = time.perf_counter()
    yield extra
    record = Record(stage, count, round(time.perf_counter() - begin, 3), _peak_memory_mib())
    write_json(path, asdict(record) | extra)


def summarise(paths: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Add up the records of each stage over its shards: counts and seconds summed, memory at its largest."""
    stages: dict[str, dict[str, float]] = {}
    for path in sorted(paths):
        record = json.loads(path.read_text(encoding="utf-8"))
        total = stages.setdefault(record["stage"], {"count": 0, "seconds": 0.0, "peak_memory_mib": 0.0})
        total["count"] += record["count"]
        total["seconds"] = round(total["seconds"] + record["seconds"], 3)
        total["peak_memory_mib"] = max(total["peak_memory_mib"], record["peak_memory_mib"])
    return stages


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
