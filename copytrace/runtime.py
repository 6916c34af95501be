"""Runtime of the networks: what runs them, and their graphs in the user's cache.

ONNX Runtime runs networks on the CPU, torch on CUDA. A graph is made once on this machine: in a second for networks as
they ship (`models.graph_templates`), otherwise by torch. Beside `NAME.onnx`, a plain ONNX file, lies `NAME.onnx.sha256`
in the format of `sha256sum`: a graph that does not match it was cut short or altered, and is made again.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import psutil
from filelock import FileLock

import models
from copytrace.errors import ConfigError, CopytraceError
from models.atomic_file import write_atomically

if TYPE_CHECKING:
    import onnxruntime
    import torch

WEIGHTS = Path(models.__file__).parent / "weights"

Backend = Literal["auto", "onnx", "torch"]

CORES = "COPYTRACE_CORES"
"""Environment variable that limits a process to a number of cores, if several share one machine."""

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return Copytrace's cache folder: from `COPYTRACE_CACHE`, else `XDG_CACHE_HOME`, else the home folder."""
    if own := os.environ.get("COPYTRACE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copytrace"


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
    cores = min(allowed, _physical_cores() or allowed)
    share = os.environ.get(CORES, "")
    if share and not (share.isdecimal() and int(share)):
        raise ConfigError(f"{CORES}={share!r} is not a number of cores; set it to 1 or more, or not at all")
    return min(cores, int(share)) if share else cores


@cache  # the system tells them in a file for each, and they are asked for with each picture
def _physical_cores() -> int | None:
    count: int | None = psutil.cpu_count(logical=False)
    return count


def decoder_threads() -> int:
    """Return how many threads the decoder of a file may have: as many as `COPYTRACE_CORES` says, if that is set.

    Otherwise return 0, by which decoders choose for themselves: most take one per logical core. Raises `ConfigError` as
    `usable_cores` does.
    """
    return usable_cores() if os.environ.get(CORES) else 0


def _has_cuda() -> bool:
    # Importing torch takes seconds, and is needed only if NVIDIA's driver is installed.
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


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


def cached_graph(name: str, weights: Path, export: Callable[[Path], Path]) -> bytes:
    """Return the graph of a file of weights in the cache's file `name`; `export(path)` makes it if need be.

    If several processes miss it at the same time, one exports it and the others wait. Raises `CopytraceError` when the
    network cannot be exported (`export` raises `RuntimeError`), when the cache cannot be written or read, and when
    onnxruntime, which also checks the exported graph, is not installed.
    """
    import_onnxruntime()
    path = cache_folder() / name
    try:
        return read_graph(path) or _export(path, weights, export)
    except OSError as error:
        raise CopytraceError(
            f"cannot keep a network's graph at {path}: {error}; set COPYTRACE_CACHE to a writable folder"
        ) from error


def read_graph(path: Path) -> bytes | None:
    """Return the bytes of a graph in the cache, or None if it is absent or does not match its digest."""
    try:
        graph, digest = path.read_bytes(), _digest_file(path).read_bytes()
    except FileNotFoundError:
        return None
    return graph if digest == _digest_line(path, graph) else None


def _export(path: Path, weights: Path, export: Callable[[Path], Path]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if graph := read_graph(path):  # another process exported it while this one waited
            return graph
        if path.exists():
            logger.warning("%s is damaged, or an older version wrote it; making it again", path)
        else:
            logger.info("making %s, once", path)
        try:
            export(path)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CopytraceError(
                f"{path.stem} cannot be exported to ONNX: {reason} ({weights}); set descriptor.backend to torch, which "
                "applies to every network"
            ) from error
        graph = path.read_bytes()
        write_atomically(_digest_file(path), _digest_line(path, graph))
        return graph


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest_line(path: Path, graph: bytes) -> bytes:
    return f"{hashlib.sha256(graph).hexdigest()}  {path.name}\n".encode()
