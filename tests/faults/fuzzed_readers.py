"""Every reader of files of Copytrace, given altered files: each must return, or raise an error that names the file.

    python -m tests.faults.fuzzed_readers SECONDS SEED [READER …]

Each reader has SECONDS of processor time, in a process of its own, and so many more for a file as `PATIENCE` says. It
prints a line of JSON for each reader: how many files it read and refused, and what else happened, each kind once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from configs.load import SettingsError
from copytrace.errors import CopytraceError
from models.configs import ModelFileError
from tests import killed_runs
from tests.faults.altered_files import alter
from tests.faults.folder_readers import Reader, replace_file
from tests.faults.reader_table import readers

PATIENCE = 30.0  # seconds of processor time for a file
FACTOR = 16  # of the bytes of a file: how many reading it may take, besides the reader's `room`
SILENCE = 300.0  # seconds without a file, after which a reader hangs
OURS = (CopytraceError, SettingsError, ModelFileError)


class Slow(BaseException):
    """A file took more processor time than it may."""


@dataclass(slots=True)
class Told:
    """What a reader did with files; `faults` has an example of each kind of what it must not do."""

    reader: str
    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    largest: int = 0  # MiB that reading took

    def as_json(self) -> str:
        return json.dumps(
            {"reader": self.reader, "files": self.files, "outcomes": self.outcomes}
            | {"faults": self.faults, "largest": self.largest}
        )


def fuzz(reader: Reader, seconds: float, seed: int, folder: Path, tell: Callable[[Told], object]) -> None:
    """Read altered files for some seconds of processor time."""
    told, random = Told(reader.name), np.random.default_rng([seed, *reader.name.encode()])
    os.environ["COPYTRACE_CACHE"] = str(folder / "cache")  # so that a network is exported before memory is measured
    root = folder / "good"
    targets = reader.make(root)
    good = {path: path.read_bytes() for path in targets}
    reader.read(root)  # what is not altered is read
    begin = process_seconds()
    while process_seconds() - begin < seconds:
        path = targets[int(random.integers(len(targets)))]
        content = alter(good[path], "" if reader.place else path.suffix, random)
        replace_file(path, content)
        (folder / f"last{path.suffix}").write_bytes(content)
        outcome, fault = attempt(reader, root, path, len(content), told)
        told.files += 1
        told.outcomes[outcome] += 1
        if fault and outcome not in told.faults:
            told.faults[outcome] = fault
            keep = folder.parent / "kept" / f"{reader.name}-{len(told.faults)}{path.suffix}"
            keep.parent.mkdir(exist_ok=True)
            keep.write_bytes(content)
        reader.restore(root, good)
        tell(told)


def attempt(reader: Reader, root: Path, path: Path, size: int, told: Told) -> tuple[str, str]:
    """Return what happened, in a word or as the kind of a fault, and of a fault where."""
    before = peak_memory()
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader.read(root)
        outcome = ("read", "")
    except (*OURS, OSError) as error:
        is_named = reader.names(str(error), root, path)
        outcome = ("refused", "") if is_named else (f"no path: {place()}", str(error)[:500])
    except Slow:
        outcome = (f"slow: {place()}", traceback.format_exc()[-1500:])
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
        outcome = (f"{type(error).__name__} at {place()}", traceback.format_exc()[-1500:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    took = peak_memory() - before
    told.largest = max(told.largest, took >> 20)
    if took > reader.room + FACTOR * size:
        return f"memory: {outcome[0]}", f"{took >> 20} MiB for {size} bytes {outcome[1]}"
    return outcome


def place() -> str:
    """Return the innermost line of this project in the error that is being handled."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    rooms = {f"/{name}/" for name in ("copytrace", "models", "configs")}
    ours = [frame for frame in frames if any(room in frame.filename for room in rooms)]
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}:{ours[-1].lineno}" if ours else "nowhere"


def process_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(reader: Reader, seconds: float, seed: int, folder: Path) -> Told:
    """Fuzz one reader in a process of its own, which may crash or hang."""
    folder.mkdir()
    report = folder / "told.json"

    def tell(told: Told) -> None:
        report.with_suffix(".new").write_text(told.as_json())
        report.with_suffix(".new").replace(report)

    if not (child := os.fork()):
        code = 1
        try:
            signal.signal(signal.SIGPROF, _interrupt)
            room = psutil.Process().memory_info().vms + (4 << 30)
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
            fuzz(reader, seconds, seed, folder, tell)
            code = 0
        except BaseException:  # noqa: BLE001 - a forked process ends here, whatever happens
            traceback.print_exc()
        os._exit(code)
    hangs = not wait(child, report)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told = Told(reader.name)
    if report.exists():
        told = Told(**{**json.loads(report.read_text())})
    if hangs or status:
        told.faults["hangs" if hangs else f"ended with {status}"] = str(next(folder.glob("last.*"), "at its start"))
    return told


def wait(child: int, report: Path) -> bool:
    """Wait for the end of a process and return True; kill it and return False if it stands still."""
    seen, since = None, time.monotonic()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.2)
        state = report.stat().st_mtime_ns if report.exists() else None
        if state != seen:
            seen, since = state, time.monotonic()
        if time.monotonic() - since > SILENCE:
            os.kill(child, signal.SIGKILL)
            return False
    return True


def _interrupt(number: int, frame: object) -> None:
    raise Slow


if __name__ == "__main__":
    chosen_seconds, chosen_seed, *names = sys.argv[1:]
    killed_runs.use_simple_models()
    base = Path(tempfile.mkdtemp(prefix="copytrace-fuzz-"))
    try:
        for each in readers():
            if not names or each.name in names:
                print(run(each, float(chosen_seconds), int(chosen_seed), base / each.name).as_json(), flush=True)
    finally:
        if not os.environ.get("COPYTRACE_KEEP"):
            shutil.rmtree(base)
        else:
            print(base, file=sys.stderr)
