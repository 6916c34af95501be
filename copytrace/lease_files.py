"""Files of leases: one per token, with the record of its holder.

    OUT/.lease/token-7.json

On a disk, a file is created by a hard link, or by exclusive creation where there are none; in a store, by a conditional
request. So of several processes that create the file of a token, one succeeds.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.parsing import parse_json
from copytrace.object_store import as_stored_path
from models.atomic_file import UMASK

FOLDER = ".lease"

_TOKEN = re.compile(r"token-(\d+)\.json")
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # as `storage` and `tempfile` name what is being written
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def token_file(place: Path, token: int) -> Path:
    """Return the path of the file of a token."""
    return place / FOLDER / f"token-{token}.json"


def list_tokens(place: Path) -> dict[int, str]:
    """Return the tokens of a folder, with the ETag of the file of each; "" on a disk, or if the store has none."""
    folder = place / FOLDER
    remote = as_stored_path(folder)
    found = remote.etags() if remote else {path.name: "" for path in folder.glob("token-*.json")}
    return {int(match[1]): etag for name, etag in found.items() if (match := _TOKEN.fullmatch(name))}


def read_token(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the content of a file and what it says; nothing if there is no such file, or it cannot be understood."""
    try:
        content = path.read_bytes()
        record = parse_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return b"", {}
    except ValueError:
        return content, {}
    return content, record if isinstance(record, dict) else {}


def create_token(path: Path, record: dict[str, Any]) -> bool:
    """Create a file whole, and return whether it is there now with this content, and not that of another process."""
    content = _encode(record)
    if remote := as_stored_path(path):
        remote.create(content)
    else:
        _create_local(path, content)
    # Read, because an answer may have been lost, and a store may not know conditional requests.
    return read_token(path)[0] == content


def rewrite_token(path: Path, record: dict[str, Any]) -> None:
    """Write a file of this process again. Raises `FileNotFoundError` if it is gone."""
    if remote := as_stored_path(path):
        remote.write_bytes(_encode(record))
        return
    with path.open("r+b") as file:  # in place, so that a file that was deleted stays so
        file.write(_encode(record))


def sweep_parts(place: Path) -> None:
    """Delete what a dead run had begun to write on a disk; a store shows no unfinished objects."""
    if as_stored_path(place):
        return
    for path in place.rglob(".*.part"):
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _create_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except FileNotFoundError:
        return  # a run that has written nothing has just removed the folder
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~UMASK)  # by its number: a faster process may have swept the file away
        with suppress(FileExistsError, FileNotFoundError):
            path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:  # a full disk, for example, which does not say for what there was no room
            raise OSError(error.errno, error.strerror, str(path)) from error
        with suppress(FileExistsError), path.open("xb") as file:
            file.write(content)
    finally:
        temporary.unlink(missing_ok=True)
