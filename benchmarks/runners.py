"""Seconds of one job on threads and on Dask with one and two worker processes, and whether their outputs are equal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from benchmarks.evaluation_sets import choose_set
from benchmarks.results import Row, Section
from configs.images import ImageSettings
from configs.runner import Runner
from flows.match_images import match_images
from flows.parameters import parameters_from_cli

RUNNERS = ("threads", "threads:2", "dask:1", "dask:2")
SHARD_SIZE = 10
Bytes = dict[str, bytes]


def measure(given: Sequence[Path], work: Path) -> list[Section]:
    """Run the same job once on each runner."""
    images = choose_set("images", given, work)
    chosen = parameters_from_cli(ImageSettings, "cpu", None, [f"media.shard_size={SHARD_SIZE}"])
    rows = []
    # A server of its own, so that the times do not depend on the size of a database.
    with nullcontext() if PREFECT_API_URL.value() else prefect_test_harness(server_startup_timeout=120):
        sides = str(images.queries), str(images.references)
        match_images(*sides, f"{work}/warm", **chosen)  # exports graphs and fills the page cache
        first: tuple[float, Bytes] | None = None
        for name in RUNNERS:
            begin = time.perf_counter()
            match_images(*sides, f"{work}/{name}", **chosen, runner=Runner.parse(name))
            seconds, written = time.perf_counter() - begin, _read_outputs(work / name)
            first = first or (seconds, written)
            differing = len(_differing_names(written, first[1]))
            rows.append(
                Row(name, {"seconds": seconds, "of threads": seconds / first[0], "files that differ": differing})
            )
    text = f"Wall time of one job on all cores, {SHARD_SIZE} images per shard ({images.name})."
    return [Section("Runners", text, rows)]


def _read_outputs(out: Path) -> Bytes:
    """Return the bytes of all files except JSON, which records seconds."""
    files = (path for path in out.rglob("*") if path.suffix in {".csv", ".parquet", ".html"})
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def _differing_names(some: Bytes, others: Bytes) -> set[str]:
    return {name for name in some.keys() | others.keys() if some.get(name) != others.get(name)}
