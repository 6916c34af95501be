"""ONNX graphs of networks, exported once on this machine and kept in the user's cache.

Beside `NAME.onnx`, a plain ONNX file, lies `NAME.onnx.sha256` in the format of `sha256sum`: a graph that does not match
it was cut short or altered, and is exported again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from copytrace.errors import CopytraceError
from copytrace.runtime.model_sources import cache_folder
from copytrace.runtime.sessions import import_onnxruntime
from models.atomic_file import write_atomically

logger = logging.getLogger(__name__)


def cached_graph(name: str, export: Callable[[Path], Path]) -> bytes:
    """Return the graph in the cache's file `name`; `export(path)` writes it if it is missing or damaged.

    If several processes miss it at the same time, one exports it and the others wait. Raises `CopytraceError` when the
    network cannot be exported (`export` raises `RuntimeError`), when the cache cannot be written or read, and when
    onnxruntime, which also checks the exported graph, is not installed.
    """
    import_onnxruntime()
    path = cache_folder() / name
    try:
        return read_graph(path) or _export(path, export)
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


def _export(path: Path, export: Callable[[Path], Path]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if graph := read_graph(path):  # another process exported it while this one waited
            return graph
        if path.exists():
            logger.warning("%s is damaged, or an older version wrote it; exporting it again", path)
        else:
            logger.info("exporting %s, once", path)
        try:
            export(path)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CopytraceError(
                f"{path.stem} cannot be exported to ONNX: {reason}; set descriptor.backend to torch, which applies to "
                "every network"
            ) from error
        graph = path.read_bytes()
        write_atomically(_digest_file(path), _digest_line(path, graph))
        return graph


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest_line(path: Path, graph: bytes) -> bytes:
    return f"{hashlib.sha256(graph).hexdigest()}  {path.name}\n".encode()
