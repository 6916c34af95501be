"""Which runtime runs a network: ONNX Runtime on the CPU, torch on CUDA."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import psutil

from copytrace.errors import ConfigError

Backend = Literal["auto", "onnx", "torch"]


def runs_by_onnx(backend: Backend, device: str | None) -> bool:
    """Say whether ONNX Runtime is to run a network: where asked to, or on a machine without CUDA.

    Raises `ConfigError` for an unknown backend, and for the onnx backend on a device other than the CPU.
    """
    if backend not in ("auto", "onnx", "torch"):
        raise ConfigError(f"unknown backend {backend!r}; give one of: auto, onnx, torch")
    if backend == "torch":
        return False
    if device is not None and device != "cpu":
        if backend == "onnx":
            raise ConfigError(f"the onnx backend runs on the CPU, not on {device!r}; set backend to torch")
        return False
    return backend == "onnx" or device == "cpu" or not _has_cuda()


def usable_cores() -> int:
    """Return how many physical cores this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _has_cuda() -> bool:
    # Asking torch costs seconds of import: only where NVIDIA's driver is there at all.
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()
