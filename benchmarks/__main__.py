"""All benchmarks: tables at the terminal, and `benchmarks/results.json` and `RESULTS.md`.

    python -m benchmarks [--data SET]... [--full] [--only NAME]

A SET is a folder of `evaluation_sets`; without one, sample media that come with installed packages are taken. Each
benchmark runs in a process of its own. `--full` also runs those that take hours, and writes `growth.png`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import Section, machine, show, to_markdown
from benchmarks.timing import cpu_seconds
from copytrace.storage import write_text

HERE = Path(__file__).parent
SHORT = ("image_accuracy", "video_accuracy", "image_stages", "point_search", "video_stages", "alignment")
LONG = (
    "aligner_networks",
    "published_networks",
    "video_metrics",
    "training",
    "runners",
    "scoring",
    "growth",
    "challenge_size",
)

SAMPLES = "sample media that come with installed packages: few, and easy to match; README.md has larger sets"


def main(
    data: Annotated[list[Path] | None, typer.Option(help="Evaluation set; may be given several times.")] = None,
    full: Annotated[bool, typer.Option(help="Also run what takes hours.")] = False,
    only: Annotated[str, typer.Option(help="Run one benchmark, and write no files.")] = "",
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the benchmarks, print their tables, and write results.json and RESULTS.md."""
    given = [folder.absolute() for folder in data or []]
    if into:
        sections = import_module(f"benchmarks.{only}").measure(given, into.parent)
        into.write_text(json.dumps([section.to_json() for section in sections]), encoding="utf-8")
        return
    here, begin = machine(), time.perf_counter()
    sections, failed = [], []
    for name in [only] if only else [*SHORT, *(LONG if full else ())]:
        print(f"== {name}", flush=True)
        measured = run(name, given)
        failed += [] if measured else [name]
        for section in measured:
            show(section)
        sections += [section.to_json() for section in measured]
    results: dict[str, Any] = {
        "command": "bench-full" if full else "bench",
        "data": ", ".join(folder.name for folder in given) or SAMPLES,
        "machine": here,
        "seconds": round(time.perf_counter() - begin),
        "processor_seconds": round(cpu_seconds()),
        "sections": sections,
        "failed": failed,
    }
    if not only:
        write_text(HERE / "results.json", json.dumps(results, indent=1) + "\n")
        print(write_text(HERE / "RESULTS.md", to_markdown(results)))
    raise SystemExit(1 if failed else 0)


def run(name: str, given: list[Path]) -> list[Section]:
    """Return the sections of a benchmark, measured in a process of its own; none if it fails, which tells why."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "sections.json"
        sets = [word for path in given for word in ("--data", str(path))]
        command = [sys.executable, "-m", "benchmarks", "--only", name, "--into", str(into), *sets]
        if subprocess.run(command, check=False).returncode:
            return []
        return [Section.from_json(content) for content in json.loads(into.read_text("utf-8"))]


if __name__ == "__main__":
    typer.run(main)
