"""Checkpoints: everything that a training run needs to go on, whole or absent."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from copytrace.errors import ConfigError
from copytrace.storage import atomic_path, local_copy


def write_checkpoint(path: Path, stamp: str, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, texts, lists and dictionaries) with a stamp of the run that it belongs to."""
    with atomic_path(path) as temporary:
        torch.save({"stamp": stamp, **state}, temporary)
    return path


def read_checkpoint(path: Path, stamp: str, device: torch.device) -> dict[str, Any] | None:
    """Return what `write_checkpoint` wrote, or None if there is none; only plain values are ever unpickled.

    Raises `ConfigError` if it belongs to a run with other settings or photos, or is no checkpoint.
    """
    if not path.exists():
        return None
    try:
        with local_copy(path) as file:
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        found = state.pop("stamp")
    except (
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(f"{path} is not a checkpoint of this version; remove it, or give another folder") from error
    if found != stamp:
        raise ConfigError(
            f"{path} belongs to a run with other settings or photos; give another folder, or remove it to start anew"
        )
    return state
