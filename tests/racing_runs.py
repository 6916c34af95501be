"""Runs that start at the same moment, or are killed: forked from one process, as each takes seconds to import it all.

    python -m tests.racing_runs race PHOTOS FOLDER COUNT    two runs into each of FOLDER/0, FOLDER/1, …
    python -m tests.racing_runs kill PHOTOS FOLDER STEP …   a run into FOLDER/STEP, killed in that step, and another

It prints the exit codes of both runs, for each folder: 0 for one that worked, 3 for one that was refused, and -9 for
one that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace.errors import InUseError
from copytrace.features.resize import SquareInput
from copytrace.images import index_images
from copytrace.index import image_index
from copytrace.step import SilentProgress, StepProgress

REFUSED = 3
POINTS = {"short_side": 60, "max_points": 20}
SETTINGS = {"media": {"shard_size": 2, "threads": 1}, "local": {"reference_points": POINTS}}


class MeanColor(SquareInput):
    """A descriptor that takes no time."""

    name, digest, typical_noise, dimensions, input_size = "mean", "0" * 16, 0.5, 3, 32

    def describe(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        means = batch.mean(axis=(1, 2)).astype(np.float32) + 1
        return means / np.linalg.norm(means, axis=1, keepdims=True)


class BeforeSteps(SilentProgress):
    """A listener that does something when a step begins."""

    def __init__(self, act: Callable[[str], object]) -> None:
        self._act = act

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
        self._act(name)
        with super().step(name, total, unit) as step:
            yield step


def index(photos: str, root: Path, act: Callable[[str], object] = str) -> int:
    """Index the photos and return the exit code of the run."""
    try:
        index_images(photos, root, ImageSettings.model_validate(SETTINGS), BeforeSteps(act))
    except InUseError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


def fork(work: Callable[[], int]) -> int:
    """Return the number of a new process that does the work and ends with the code that this returns."""
    if child := os.fork():
        return child
    code = 1
    try:
        code = work()
    except BaseException:  # noqa: BLE001 - a forked process ends here, whatever happens
        traceback.print_exc()
    os._exit(code)


def exit_code(child: int = -1) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def race(photos: str, root: Path) -> list[int]:
    """Start two runs into one folder at the same moment; the one that works goes on when the other has ended."""
    (begin, open_begin), (go_on, open_go_on) = os.pipe(), os.pipe()

    def run() -> int:
        os.close(open_begin)
        os.close(open_go_on)
        os.read(begin, 1)  # returns when the parent has closed its end
        return index(photos, root, lambda _: os.read(go_on, 1))

    for _ in range(2):
        fork(run)
    os.close(open_begin)
    codes = [exit_code()]
    os.close(open_go_on)
    codes.append(exit_code())
    os.close(begin)
    os.close(go_on)
    return codes


def kill(photos: str, root: Path, step: str) -> list[int]:
    """Run into a folder until a step begins, in which the process is killed; then run again."""

    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return [exit_code(fork(lambda: index(photos, root, die))), exit_code(fork(lambda: index(photos, root)))]


if __name__ == "__main__":
    image_index.load_image_models = lambda descriptor, detector: (MeanColor(), None)  # type: ignore[assignment]
    what, photos, folder, *rest = sys.argv[1:]
    if what == "race":
        print(json.dumps([race(photos, Path(folder) / str(number)) for number in range(int(rest[0]))]))
    else:
        print(json.dumps([kill(photos, Path(folder) / step, step) for step in rest]))
