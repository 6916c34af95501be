"""One step of a run: what it writes and from what, whether an earlier run has done it, and what it cost.

A step writes its outputs and then its *record*, a small JSON file beside them: the fingerprint of everything that the
outputs were made from, the sizes and checksums of the outputs, and the step's cost. A step whose record has the right
fingerprint, and whose outputs have those sizes, is done and does nothing. The record is deleted when a step begins and
written when it ends, so outputs without a record do not count.

A step reports its progress to a listener, which shows it in a terminal or in Prefect, or does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from copytrace.checked_files import checksums_by, read_record, write_record
from copytrace.checksums import checksums_of, collect_checksums, noted_size
from copytrace.errors import DamagedFileError
from copytrace.memory import peak_memory_mib, return_free_memory
from copytrace.storage import digest_of, file_size, remove_file

VERSION = version("copytrace")

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that writes `outputs`; `fingerprint` changes with anything that decides what they hold.

    `record` is the path of the record. `of` puts it beside the first output, as `.json`, unless it is given.
    """

    name: str
    outputs: tuple[Path, ...]
    fingerprint: str
    record: Path

    @classmethod
    def of(cls, name: str, *outputs: Path, made_from: Sequence[object], record: Path | None = None) -> Step:
        """Return a step whose fingerprint covers the JSON-able `made_from` and the version of Copytrace."""
        return cls(name, outputs, digest_of(VERSION, *made_from), record or outputs[0].with_suffix(".json"))

    def is_done(self) -> bool:
        """Return whether an earlier run wrote the outputs as they are."""
        try:
            entry = read_record(self.record)
        except DamagedFileError:
            return False
        return entry.get("fingerprint") == self.fingerprint and entry.get("bytes") == self._sizes()

    @contextmanager
    def run(self, total: int, unit: str) -> Iterator[StepRun]:
        """Show the block's progress in `total` units, measure its cost and, if it raises nothing, write the record.

        In any case, memory that the block freed goes back to the system.
        """
        try:
            yield from self._run(total, unit)
        finally:
            return_free_memory()

    def _run(self, total: int, unit: str) -> Iterator[StepRun]:
        remove_file(self.record)
        begin = time.perf_counter()
        with current_progress().step(self.name, total, unit) as shown, collect_checksums() as written:
            work = StepRun(shown)
            yield work
        cost = {
            "stage": self.name,
            "count": total,
            "seconds": round(time.perf_counter() - begin, 3),
            "peak_memory_mib": peak_memory_mib(),
        }
        # What was just written is not asked for again: in a store, each answer is a request.
        sizes = [noted_size(noted) if (noted := written.get(str(path))) else file_size(path) for path in self.outputs]
        found = {
            str(path): written.get(str(path)) or checksums_of(path)
            for path, size in zip(self.outputs, sizes, strict=True)
            if size is not None
        }
        outputs = {"bytes": sizes, "checksums": checksums_by(self.record, found)}
        write_record(self.record, {"fingerprint": self.fingerprint} | outputs | cost | work.notes)

    def _sizes(self) -> list[int | None]:
        return [file_size(path) for path in self.outputs]


@dataclass(frozen=True, slots=True)
class StepRun:
    """A step that is under way: its progress, and `notes` that go into its record."""

    progress: StepProgress
    notes: dict[str, Any] = field(default_factory=dict)

    def advance(self, count: int = 1) -> None:
        """Report that `count` more units are done."""
        self.progress.advance(count)


def fingerprint_of(output: Path) -> str | None:
    """Return the fingerprint of the step whose record lies beside `output`; None if it has not been done."""
    found: str | None = read_record(output.with_suffix(".json")).get("fingerprint")
    return found


class Runner(Protocol):
    """A runner of the steps of a recipe: this process (`ProcessRunner`), or Prefect."""

    def run(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one step and return what it returns."""

    def run_shards(self, shards: Sequence[int], *steps: Callable[..., Any], **arguments: Any) -> None:
        """Take each shard through the steps in order: `step(shard=NUMBER, **arguments)`."""


class ProcessRunner:
    """A runner that runs steps in this process, one after another, and shows a step of all shards as one."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or SilentProgress()

    def run(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Runner`."""
        with listen(self._progress):
            return step(*args, **kwargs)

    def run_shards(self, shards: Sequence[int], *steps: Callable[..., Any], **arguments: Any) -> None:
        """See `Runner`."""
        for step in steps:
            with SharedProgress(self._progress, len(shards)) as shared, listen(shared):
                for shard in shards:
                    step(shard=shard, **arguments)


class StepProgress(Protocol):
    """The progress of one step."""

    def advance(self, count: int = 1) -> None:
        """Report that `count` more units are done."""

    def resize(self, total: int) -> None:
        """Change the number of units that the step consists of."""


class Progress(Protocol):
    """A listener that shows steps: `with progress.step("describe references", 400, "images") as step: …`."""

    def step(self, name: str, total: int, unit: str) -> AbstractContextManager[StepProgress]:
        """Open a step of `total` units."""


class SilentProgress:
    """A listener that shows nothing: the default of the library."""

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Open a step that nothing shows."""
        yield _SilentStep()


class SharedProgress:
    """A listener that shows the same step of many shards as one.

    The total is extrapolated from the shards seen so far, and exact once the last one has begun.
    """

    def __init__(self, progress: Progress, shards: int) -> None:
        self._progress, self._shards = progress, shards
        self._begun, self._units = 0, 0
        self._shown: StepProgress | None = None
        self._stack = ExitStack()

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        """Add a shard's units to the step that all shards share."""
        self._begun += 1
        self._units += total
        if self._shown is None:
            self._shown = self._stack.enter_context(self._progress.step(name, self._expected_total(), unit))
        else:
            self._shown.resize(self._expected_total())
        yield self._shown

    def __enter__(self) -> SharedProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown is not None and error[0] is None:
            self._shown.resize(self._units)  # shards that were done already opened no step
        self._stack.close()

    def _expected_total(self) -> int:
        unseen = max(self._shards - self._begun, 0)
        return self._units + unseen * self._units // self._begun


_SILENT = SilentProgress()
_listener: ContextVar[Progress] = ContextVar("progress")


@contextmanager
def listen(progress: Progress) -> Iterator[None]:
    """Let `progress` show the steps that begin in the block, in this thread."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


def current_progress() -> Progress:
    """Return the listener of the innermost `listen` block; without one, a silent one."""
    return _listener.get(_SILENT)


class _SilentStep:
    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def resize(self, total: int) -> None:
        """Do nothing."""
