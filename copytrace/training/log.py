"""The log of a training run: a protocol for MLflow and others, and the history file that every run writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.parsing import parse_json
from copytrace.errors import InputError
from copytrace.storage import write_text


class TrainingLog(Protocol):
    """Receiver of metrics and pictures. It must pickle: with several GPUs it is sent to the process that logs."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Receive the metrics of an epoch, counted from 1: losses, validation, images per second."""

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        """Receive a picture, RGB uint8 [H, W, 3]: a batch of examples, or mistakes."""


class SilentLog:
    """A log that discards everything; the default of the library."""

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Do nothing."""

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        """Do nothing."""


def append_history(path: Path, values: Mapping[str, float], epoch: int) -> None:
    """Append a JSON line with the metrics of an epoch, and drop lines of later epochs, which a resumed run repeats."""
    kept = [line for line in read_history(path) if line["epoch"] < epoch]
    lines = [*kept, {"epoch": epoch, **{name: round(float(value), 6) for name, value in values.items()}}]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a `history.jsonl`; none if the file does not exist. Raises `InputError` if it is damaged."""
    if not path.exists():
        return []
    try:
        lines = [parse_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        if not all(isinstance(line, dict) and isinstance(line.get("epoch"), int) for line in lines):
            raise ValueError("a line has no epoch")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; delete it, and give the same command again") from error
    return lines
