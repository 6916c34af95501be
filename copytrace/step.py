"""What each stage cost: a small JSON file beside its output, written only when the stage really ran."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from copytrace.storage import write_json

PACKAGES = (
    *("copytrace", "av", "faiss-cpu", "faiss-gpu", "numpy", "onnxruntime", "opencv-python-headless", "pillow"),
    *("scipy", "torch"),
)


VERSION = version("copytrace")  # in every stamp: another version may give other results


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


def read_record(path: Path) -> dict[str, Any]:
    """Return what `recorded` wrote to `path`, an empty dict where there is no such file."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return record


def summarise(paths: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Add up the records of each stage over its shards: counts and seconds summed, memory at its largest.

    Those that do not exist are passed over.
    """
    stages: dict[str, dict[str, float]] = {}
    for path in sorted(paths):
        if not (record := read_record(path)):
            continue
        total = stages.setdefault(record["stage"], {"count": 0, "seconds": 0.0, "peak_memory_mib": 0.0})
        total["count"] += record["count"]
        total["seconds"] = round(total["seconds"] + record["seconds"], 3)
        total["peak_memory_mib"] = max(total["peak_memory_mib"], record["peak_memory_mib"])
    return stages


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results may depend on, as far as they are installed."""
    return {"python": platform.python_version()} | {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _peak_memory_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
