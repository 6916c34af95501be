"""ONNX graphs of networks, made once on this machine and kept in the user's cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from copytrace.errors import CopytraceError
from copytrace.runtime.model_sources import cache_folder
from copytrace.runtime.sessions import import_onnxruntime
from models.onnx_files import read_onnx

logger = logging.getLogger(__name__)


def cached_graph(name: str, make: Callable[[Path], Path]) -> bytes:
    """Return the graph that is kept as `name`, made by `make(path)` if it is not there, and anew if it is damaged.

    Of the processes that find it missing at once, one makes it and the others wait. Raises `CopytraceError` when the
    network cannot be exported (`make` raises `RuntimeError` then), and when the cache cannot be written or read.
    """
    import_onnxruntime()  # which also checks an exported graph
    path = cache_folder() / name
    try:
        graph = read_onnx(path) or _export(path, make)
    except OSError as error:
        raise CopytraceError(
            f"cannot keep a network's graph at {path}: {error}; set COPYTRACE_CACHE to a writable folder"
        ) from error
    if graph is None:
        raise CopytraceError(f"{path} was altered as soon as it was written; set COPYTRACE_CACHE to another folder")
    return graph


def _export(path: Path, make: Callable[[Path], Path]) -> bytes | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if graph := read_onnx(path):  # another process made it while this one waited
            return graph
        if path.exists():
            logger.warning("%s is damaged; making it anew", path)
        else:
            logger.info("making %s, once", path)
        try:
            make(path)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CopytraceError(
                f"{path.stem} cannot be exported to ONNX: {reason}; set descriptor.backend to torch, which goes for "
                "every network"
            ) from error
        return read_onnx(path)
