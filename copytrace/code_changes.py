"""Which code of Copytrace has worked into the folder of a run: a later one keeps what that finished, and says so.

The record of a step knows its inputs and its settings, and the version of Copytrace, but not the code between two
versions, such as that of a `git pull`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from copytrace.checked_files import read_record, write_record
from copytrace.errors import CopytraceError, DamagedFileError
from copytrace.object_store import as_stored_path
from copytrace.storage import remove_file

_PACKAGES = ("configs", "copytrace", "models")
_NOTE = ".code.json"  # hidden: a run whose results lie in its own queries does not list it
_UNKNOWN = "unknown"  # code that left no note of itself

logger = logging.getLogger(__name__)


@contextmanager
def note_code(work: Path) -> Iterator[None]:
    """Note in the folder `work` of a run that this code writes into it; warn if other code has done so before.

    A run that has written nothing else at the end of the block leaves no note.
    """
    note = work / _NOTE
    try:
        known = [str(each) for each in read_record(note).get("code", [])]
    except DamagedFileError:
        known = [_UNKNOWN]
    if not known and any(work.glob("*/*")):
        known = [_UNKNOWN]
    own = digest_of_code()
    if own not in known:
        write_record(note, {"code": [*known, own]})
    if set(known) - {own}:
        logger.warning(
            "%s has results of other code of Copytrace, which are kept where inputs and settings are the same; to make "
            "all of them again, delete %s, or give another folder",
            *(work.parent, work),
        )
    try:
        yield
    finally:
        with suppress(OSError, CopytraceError):  # else the error that ended the run would not be told
            if [path.name for path in work.iterdir()] == [_NOTE]:
                remove_file(note)
                if not as_stored_path(work):
                    work.rmdir()


@cache
def digest_of_code() -> str:
    """Return 16 hexadecimal digits that change when any line of Copytrace's code changes."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
