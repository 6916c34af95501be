"""Set-up of ONNX Runtime sessions and torch devices, the same for every network."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from copytrace.errors import ConfigError, CopytraceError

if TYPE_CHECKING:
    import onnxruntime
    import torch


def import_onnxruntime() -> ModuleType:
    """Return the module `onnxruntime`. Raises `CopytraceError` if it is not installed."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise CopytraceError(
            "onnxruntime is not installed; pip install 'copytrace[cpu]' (or 'copytrace[gpu]')"
        ) from error


def open_session(graph: bytes, *, threads: int, any_shape: bool = False) -> onnxruntime.InferenceSession:
    """Open an ONNX graph on the CPU, so that each run uses `threads` cores.

    `any_shape` is for graphs whose inputs change their shape from run to run: ONNX Runtime would otherwise plan its
    memory for every new shape, and keep all plans. Raises `CopytraceError` if onnxruntime is not installed.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = not any_shape
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def torch_device(device: str | None) -> torch.device:
    """Return the torch device of that name; by default CUDA, or the CPU if there is none.

    Raises `ConfigError` for a name that torch does not know, and for a device that this machine does not have.
    """
    import torch  # noqa: PLC0415

    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise ConfigError(
            f"torch has no device {device!r} here; give cpu, cuda or cuda:N, or install a CUDA build of torch"
        ) from error
    return found
