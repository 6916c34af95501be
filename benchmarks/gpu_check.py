"""Check of everything that runs on a GPU against this machine's CPU: `make gpu-check`.

    python -m benchmarks.gpu_check [--device cuda|cpu] [--only NAME]... [--out TABLE.md]

It needs no network. With `--device cpu`, the same checks compare the CPU with itself, and what only a GPU has is
skipped. It exits with 0 if all agrees, with 1 if anything differs or fails, and with 2 if there is no such device.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.results import Row, Section, machine, section_lines, show
from copytrace.storage import write_text

MODULES = ("gpu_networks", "gpu_training", "gpu_search")
TABLE_WIDTH = 150  # columns; narrower ones break its words
SAME, DIFFERENT, FAILED = "same", "DIFFERENT", "FAILED"


class UnavailableError(Exception):
    """A check that this machine cannot do; the text says what is missing."""


@dataclass(frozen=True)
class Target:
    """The device that is checked, a name of torch, and a folder for files."""

    device: str
    work: Path

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU; otherwise sizes are small, so that the checks take seconds."""
        return self.device != "cpu"

    def require_gpu(self) -> None:
        """Raise `UnavailableError` unless the device is a GPU."""
        if not self.on_gpu:
            raise UnavailableError("no CUDA device")


@dataclass(frozen=True)
class Finding:
    """A figure, and the limits within which the device agrees with the CPU; without any, it is a measurement."""

    what: str
    found: float
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Return whether the figure is within its limits; one that is no number is not."""
        if self.least is None and self.most is None:
            return ""
        low, high = (self.least is None or self.found >= self.least), (self.most is None or self.found <= self.most)
        return SAME if self.found == self.found and low and high else DIFFERENT

    @property
    def limit(self) -> str:
        """Return the limits in words."""
        named = (("at least", self.least), ("at most", self.most))
        return ", ".join(f"{word} {value:g}" for word, value in named if value is not None)


Check = Callable[[Target], Iterable[Finding]]


def all_checks() -> dict[str, Check]:
    """Return the checks by name, in the order in which they run."""
    checks: dict[str, Check] = {}
    for module in MODULES:
        checks |= import_module(f"benchmarks.{module}").CHECKS
    return checks


def run_checks(target: Target, checks: Mapping[str, Check]) -> list[Row]:
    """Run checks, and return a row per finding; one that fails prints why, and the others go on."""
    rows = []
    for name, check in checks.items():
        print(f"== {name}", flush=True)
        begin, found = time.perf_counter(), list[Finding]()
        verdict = ""
        try:
            found = list(check(target))
        except UnavailableError as reason:
            verdict = f"skipped: {reason}"
        except Exception as error:  # noqa: BLE001 - whatever a library raises on a GPU is a result
            traceback.print_exc()
            verdict = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        seconds = round(time.perf_counter() - begin, 1)
        if verdict:
            rows.append(Row(name, _figures("", None, "", verdict, seconds)))
        rows += [
            Row(name, _figures(each.what, each.found, each.limit, each.verdict, None if number else seconds))
            for number, each in enumerate(found)
        ]
    return rows


def _figures(what: str, found: float | None, limit: str, verdict: str, seconds: float | None) -> dict[str, Any]:
    return {"compared or measured": what, "found": found, "limit": limit, "result": verdict, "seconds": seconds}


def main(
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="The device to check against the CPU.")] = "cuda",
    only: Annotated[list[str] | None, typer.Option(help="A check; may be given several times.")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write, too.")] = None,
) -> None:
    """Compare networks, searches, flows and trainings on a GPU with the CPU, and measure their speed."""
    checks = all_checks()
    if unknown := set(only or ()) - set(checks):
        raise typer.BadParameter(f"no check {min(unknown)!r}; there are: {', '.join(checks)}")
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device here, so nothing was checked; --device cpu runs the checks there")
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as folder:
        rows = run_checks(Target(device, Path(folder)), {n: c for n, c in checks.items() if not only or n in only})
    section = Section(f"{_device_name(device)} beside the CPU", _text(), rows)
    show(section, TABLE_WIDTH)
    if out:
        print(write_text(out, "\n".join(section_lines(section)) + "\n"))
    wrong = [row for row in rows if str(row.figures["result"]).startswith((DIFFERENT, FAILED))]
    print(f"gpu-check: {len(wrong)} of {len(rows)} figures differ or failed")
    raise SystemExit(1 if wrong else 0)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "The CPU"


def _text() -> str:
    versions = ", ".join(f"{name} {found}" for name, found in machine()["versions"].items())
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    return f"Processor: {machine()['processor']}. {cuda}. Versions: {versions}."


if __name__ == "__main__":
    # The checks import this module by its name: their errors are that module's, not those of this script.
    typer.run(import_module("benchmarks.gpu_check").main)
