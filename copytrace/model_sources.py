"""Sources of models: the shipped ones, files and folders, URIs, and a registry that a plugin serves.

A source may pin its model: `SOURCE#sha256=DIGEST` is refused if the file has another digest. A file on the web must be
pinned, since whoever runs the server can replace it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Literal

import fsspec
from filelock import FileLock
from fsspec.core import url_to_fs

from copytrace.errors import ConfigError, CopytraceError
from copytrace.object_store import filesystem_of, object_version, redact, reraise_as
from copytrace.runtime import WEIGHTS, cache_folder
from copytrace.storage import atomic_path, digest_of, sha256_of

ModelKind = Literal["descriptor", "overlay", "aligner", "pair-classifier"]

# An entry point of this group has a URI scheme as its name, and a function (uri: str) -> Path that returns the folder
# or file of the model. The function should raise a `CopytraceError`.
SCHEMES = "copytrace.model_schemes"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # two letters or more, as C:/ is a disk
_PIN = re.compile(r"(.*)#sha256=([0-9a-f]{64})", re.IGNORECASE)
_TO_BE_PINNED = ("http", "https")


def resolve_model(source: str, kind: ModelKind) -> Path:
    """Return the local file of the model that `source` names.

    `source` is one of these:

    - "shipped";
    - a file, or a folder that holds the `model_file_name` of that kind;
    - the URI of such a file or folder that fsspec opens (`s3://…`, `https://…`); each version of it is downloaded once
      into `cache_folder()`;
    - a URI such as `models:/NAME@champion`, whose scheme an installed plugin serves (see `SCHEMES`).

    Each may end in `#sha256=DIGEST`, of the file; those on the web must. Raises `ConfigError` when the model does not
    exist, cannot be reached, has another digest, or must be pinned, and `CopytraceError` when the cache cannot
    be written.
    """
    if pinned := _PIN.fullmatch(source):
        path = _resolve(pinned[1], kind)
        _require_digest(path, pinned[2].lower(), source)
        return path
    if (uri := _SCHEME.match(source)) and uri[1].lower() in _TO_BE_PINNED:
        raise ConfigError(
            f"the {kind} model {redact(source)} is not pinned, and its server may replace it: add #sha256=… with the "
            "digest of the file that you trust, as sha256sum prints it"
        )
    return _resolve(source, kind)


def _resolve(source: str, kind: ModelKind) -> Path:
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


def _require_digest(path: Path, digest: str, source: str) -> None:
    status = path.stat()
    if (found := _digest_of(path, status.st_size, status.st_mtime_ns)) != digest:
        raise ConfigError(
            f"{redact(source.partition('#')[0])} has the SHA-256 {found}, not the one after #sha256=: it is another "
            "model, or was changed; check where it comes from"
        )


@lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, time: int) -> str:
    """Return the SHA-256 of a file; it is read again only when its size or time has changed."""
    return sha256_of(path)


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
