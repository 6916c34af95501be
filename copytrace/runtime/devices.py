"""Choice of the runtime for a network: ONNX Runtime on the CPU, torch on CUDA."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import psutil

from copytrace.errors import ConfigError

Backend = Literal["auto", "onnx", "torch"]

CORES = "COPYTRACE_CORES"
"""Environment variable that limits a process to a number of cores, if several share one machine."""


def uses_onnx(backend: Backend, device: str | None) -> bool:
    """Say whether ONNX Runtime runs a network: if the settings ask for it, or on a machine without CUDA.

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


def uses_cuda(backend: Backend, device: str | None) -> bool:
    """Say whether a network runs on a GPU here. Raises `ConfigError` as `uses_onnx` does."""
    if uses_onnx(backend, device):
        return False
    return _has_cuda() if device is None else device.startswith("cuda")


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at most `COPYTRACE_CORES` if that is set.

    Raises `ConfigError` when that variable is not a positive number.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    share = os.environ.get(CORES, "")
    if share and not (share.isdecimal() and int(share)):
        raise ConfigError(f"{CORES}={share!r} is not a number of cores; set it to 1 or more, or not at all")
    return min(cores, int(share)) if share else cores


def _has_cuda() -> bool:
    # Importing torch takes seconds, and is needed only if NVIDIA's driver is installed.
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()
