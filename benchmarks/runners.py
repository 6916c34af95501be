"""Seconds of one job on threads and on Dask with one and two worker processes, and whether their outputs are equal.

python -m benchmarks.runners [QUERIES REFERENCES] [--videos] [--shard-size 10]     default: sample media
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console
from rich.table import Table

from configs.images import ImageSettings
from configs.runner import Runner
from configs.videos import VideoSettings
from copytrace.training.sample_photos import write_demo_set
from copytrace.training.sample_videos import write_demo_videos
from flows.match_images import match_images
from flows.match_videos import match_videos
from flows.parameters import parameters_from_cli

RUNNERS = ("threads", "threads:2", "dask:1", "dask:2")
Bytes = dict[str, bytes]


def main(
    queries: Annotated[str, typer.Argument()] = "",
    references: Annotated[str, typer.Argument()] = "",
    videos: bool = False,
    shard_size: int = 10,
) -> None:
    """Print the seconds of each runner, their ratio to threads, and whether it wrote the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        if not references:
            samples = (write_demo_videos if videos else write_demo_set)(Path(folder) / "samples")
            queries, references = str(samples / "queries"), str(samples / "references")
        compare(queries, references, Path(folder), videos=videos, shard_size=shard_size)


def compare(queries: str, references: str, folder: Path, *, videos: bool, shard_size: int) -> None:
    """Run the job once on each runner, with outputs below `folder`, and print the table."""
    schema = VideoSettings if videos else ImageSettings
    flow: Callable[..., Any] = match_videos if videos else match_images
    chosen = parameters_from_cli(schema, "cpu", None, [f"media.shard_size={shard_size}"])
    table = Table("runner", "seconds", "ratio to threads", "sum of stage seconds", "bytes")
    table.caption = f"{queries} against {references}, {shard_size} files per shard"
    # A server of its own, so that the times do not depend on the size of a database.
    server = nullcontext() if PREFECT_API_URL.value() else prefect_test_harness(server_startup_timeout=120)
    with server:
        flow(queries, references, f"{folder}/warm", **chosen)  # exports graphs and fills the page cache
        first: tuple[float, Bytes] | None = None
        for name in RUNNERS:
            begin = time.perf_counter()
            run = flow(queries, references, f"{folder}/{name}", **chosen, runner=Runner.parse(name))
            seconds, written = time.perf_counter() - begin, _read_outputs(folder / name)
            first = first or (seconds, written)
            stages = sum(stage["seconds"] for stage in run["stages"].values())
            same = "the same" if written == first[1] else f"{len(_differing_names(written, first[1]))} files differ"
            table.add_row(name, f"{seconds:.1f}", f"{seconds / first[0]:.2f}", f"{stages:.1f}", same)
    Console().print(table)


def _read_outputs(out: Path) -> Bytes:
    """Return the bytes of all files except JSON, which records seconds."""
    files = (path for path in out.rglob("*") if path.suffix in {".csv", ".parquet", ".html"})
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def _differing_names(some: Bytes, others: Bytes) -> set[str]:
    return {name for name in some.keys() | others.keys() if some.get(name) != others.get(name)}


if __name__ == "__main__":
    typer.run(main)
