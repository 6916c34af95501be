"""Checkpoints: everything that a training run needs to continue."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from copytrace.errors import ConfigError
from copytrace.storage import atomic_path, local_copy


def write_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, texts, lists and dictionaries) atomically, with the fingerprint of its run."""
    with atomic_path(path) as temporary:
        torch.save({"fingerprint": fingerprint, **state}, temporary)
    return path


def read_checkpoint(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any] | None:
    """Return the state that `write_checkpoint` wrote, or None if there is no file; only plain values are unpickled.

    Raises `ConfigError` if the file belongs to a run with other settings or data, or is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        with local_copy(path) as file:
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        found = state.pop("fingerprint")
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
    if found != fingerprint:
        raise ConfigError(
            f"{path} belongs to a run with other settings or data; give another folder, or remove it to start again"
        )
    return state
