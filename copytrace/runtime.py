"""Runtime of the networks: where a model's file comes from, what runs it, and its graph in the user's cache.

ONNX Runtime runs networks on the CPU, torch on CUDA. A source names a model: the shipped one, a file or folder, a URI,
or a registry that a plugin serves. A graph is exported once on this machine. Beside `NAME.onnx`, a plain ONNX file,
lies `NAME.onnx.sha256` in the format of `sha256sum`: a graph that does not match it was cut short or altered, and is
exported again.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import fsspec
import psutil
from filelock import FileLock
from fsspec.core import url_to_fs

import models
from copytrace.errors import ConfigError, CopytraceError
from copytrace.object_store import filesystem_of, object_version, redact, reraise_as
from copytrace.storage import atomic_path, digest_of
from models.atomic_file import write_atomically

if TYPE_CHECKING:
    import onnxruntime
    import torch

ModelKind = Literal["descriptor", "overlay", "aligner", "pair-classifier"]

# An entry point of this group has a URI scheme as its name, and a function (uri: str) -> Path that returns the folder
# or file of the model. The function should raise a `CopytraceError`.
SCHEMES = "copytrace.model_schemes"
WEIGHTS = Path(models.__file__).parent / "weights"

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # two letters or more, as C:/ is a disk

Backend = Literal["auto", "onnx", "torch"]

CORES = "COPYTRACE_CORES"
"""Environment variable that limits a process to a number of cores, if several share one machine."""

logger = logging.getLogger(__name__)


def resolve_model(source: str, kind: ModelKind) -> Path:
    """Return the local file of the model that `source` names.

    `source` is one of these:

    - "shipped";
    - a file, or a folder that holds the `model_file_name` of that kind;
    - the URI of such a file or folder that fsspec opens (`s3://…`, `https://…`); each version of it is downloaded once
      into `cache_folder()`;
    - a URI such as `models:/NAME@champion`, whose scheme an installed plugin serves (see `SCHEMES`).

    Raises `ConfigError` when the model does not exist or cannot be reached, and `CopytraceError` when the cache cannot
    be written.
    """
    if source == "shipped":
        return _model_file(WEIGHTS, kind, source)
    uri = _SCHEME.match(source)
    if uri is None:
        return _model_file(Path(source).expanduser(), kind, source)
    scheme = uri[1].lower()
    if scheme == "file":
        return _model_file(Path(url_to_fs(source)[1]), kind, source)
    if plugin := _plugin(scheme):
        return _model_file(plugin(source), kind, source)
    if "://" in source and scheme in fsspec.available_protocols():
        return _download(source, kind)
    raise ConfigError(
        f"nothing installed serves {scheme}:/ of the {kind} model {redact(source)}; give shipped, a path, s3://… or "
        f"https://…, or install the package whose {SCHEMES} entry point is named {scheme}"
    )


def model_state(source: str, kind: ModelKind) -> tuple[str, int, int]:
    """Return what changes when `source` begins to name another model: its file, the file's size and its time.

    A champion may be promoted, and a file replaced, while a process that has the model loaded lives on. The name of a
    model without a file is returned as it is.
    """
    if not (source == "shipped" or _SCHEME.match(source) or Path(source).expanduser().exists()):
        return source, 0, 0  # a name, or a file that is missing, of which loading tells
    try:
        file = resolve_model(source, kind)
    except ConfigError:
        return source, 0, 0  # loading it tells what is wrong, unless it is a name that a folder here has, too
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def model_file_name(kind: ModelKind) -> str:
    """Return the name of a model's file in its folder, such as `pair_classifier.safetensors`."""
    return f"{kind.replace('-', '_')}.safetensors"


def cache_folder() -> Path:
    """Return Copytrace's cache folder: from `COPYTRACE_CACHE`, else `XDG_CACHE_HOME`, else the home folder."""
    if own := os.environ.get("COPYTRACE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "copytrace"


def _model_file(path: Path, kind: ModelKind, source: str) -> Path:
    file = path / model_file_name(kind) if path.is_dir() else path
    if file.is_file():
        return file
    if source == "shipped":
        raise ConfigError(
            f"this installation ships no {kind} model: {file} is missing; install copytrace again, or give your own"
        )
    missing = f"{file} does not exist" if file != Path(source) else "there is no such file or folder"
    known = "imagenet, shipped" if kind == "descriptor" else "shipped"
    raise ConfigError(
        f"no {kind} model at {redact(source)!r}: {missing}; give {known}, a file, a folder that holds "
        f"{model_file_name(kind)}, s3://…, https://… or models:/…"
    )


def _plugin(scheme: str) -> Callable[[str], Path] | None:
    for entry in entry_points(group=SCHEMES, name=scheme):
        try:
            function: Callable[[str], Path] = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the plugin {entry.value} for {scheme}:/ does not load: {error}; install it again"
            ) from error
        return function
    return None


def _download(source: str, kind: ModelKind) -> Path:
    label = f"the {kind} model {redact(source)}"
    with reraise_as(source, ConfigError, label=label):
        store, path = filesystem_of(source)
        store.invalidate_cache()  # so that an object that another process replaced is seen
        detail = store.info(path)
        if detail["type"] == "directory":
            path = f"{path.rstrip('/')}/{model_file_name(kind)}"
            detail = store.info(path)
    name = PurePosixPath(path.partition("?")[0]).name or model_file_name(kind)
    version = digest_of(store.unstrip_protocol(path), str(detail.get("size")), object_version(detail))
    target = cache_folder() / "models" / version / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock"):  # of several processes that miss it, one downloads it
            if not target.exists():
                with atomic_path(target) as temporary, reraise_as(source, ConfigError, label=label):
                    store.get_file(path, str(temporary))
                    _check_size(temporary, detail.get("size"), source)
    except OSError as error:
        raise CopytraceError(
            f"cannot keep {redact(source)} at {target}: {error}; set COPYTRACE_CACHE to a writable folder with room"
        ) from error
    return target


def _check_size(file: Path, expected: int | None, source: str) -> None:
    size = file.stat().st_size
    if expected is not None and size != expected:
        raise ConfigError(f"{redact(source)} broke off after {size} of {expected} bytes; try again")


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
