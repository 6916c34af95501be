"""Atomic writing of a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(UMASK)


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` to `path` and return it: a reader finds the old file or the new one, and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)  # temporary files are for the user alone
        temporary.replace(path)
    except OSError as error:
        if not error.errno:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # as of a full disk
    finally:
        temporary.unlink(missing_ok=True)
    return path
