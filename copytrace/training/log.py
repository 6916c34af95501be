"""What a training run tells while it runs: one small protocol, so that a file, a terminal and MLflow can listen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from copytrace.storage import write_text


class TrainingLog(Protocol):
    """A listener. It must pickle: with several GPUs it is sent to the process that speaks for all."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Take the figures of an epoch, counted from 1: losses, validation, images per second."""

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        """Take a picture, RGB uint8 [H, W, 3]: a batch of examples, or mistakes."""


class SilentLog:
    """Hears nothing; the default of the library."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Do nothing."""

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        """Do nothing."""


def append_history(path: Path, values: Mapping[str, float], epoch: int) -> None:
    """Add a line of JSON with an epoch's figures; a run that resumes at an earlier epoch takes back the later lines."""
    kept = [line for line in read_history(path) if line["epoch"] < epoch]
    lines = [*kept, {"epoch": epoch, **{name: round(float(value), 6) for name, value in values.items()}}]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a `history.jsonl`, none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
