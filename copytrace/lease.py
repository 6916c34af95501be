"""Leases: one run at a time writes into an output folder or an index, on a disk, a network file system or in a store.

    OUT/.lease/token-7.json     who holds the lease: host, process, command, since when, and its last sign of life

To take the lease is to create the file of the next token, which only one process can do: by a hard link on a disk, and
by a conditional request (`If-None-Match: *`) in a store. The greatest token holds the lease. Its holder writes its file
again every `BEAT_SECONDS`. The file stays when the run has ended, as free, so that tokens only grow; a run that has
written nothing leaves none.

A holder that has died is succeeded. On the same machine, its process tells at once. On another machine, its file is
watched, so that no clocks are compared: `LEASE_SECONDS` without a sign of life are enough.

Before anything in the folder is replaced or deleted, `check_lease` looks whether a successor is there. So a run that
was paused for too long, or whose machine was cut off, cannot change what its successor writes. The processes that work
for a run on the same or on other machines get its claims, and check them likewise.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from configs.parsing import parse_json
from copytrace.errors import CopytraceError, InUseError, LeaseLostError
from copytrace.object_store import StoredPath, redact
from copytrace.processes import machine_identity, start_of_process
from models.atomic_file import UMASK

FOLDER = ".lease"
BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""A holder on another machine that has shown no sign of life for so long is taken for dead."""
SECONDS_BETWEEN_LOOKS = 0.5
ATTEMPTS = 20  # each fails only because another process took the lease in between
LONGEST_COMMAND = 200  # characters

_HELD, _FREE = "held", "free"  # of the same length, so that a file keeps its size
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # as `storage` and `tempfile` name what is being written
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The lease of the folder `place`, as a run holds it; it can be sent to the processes that work for the run."""

    place: Path
    token: int
    owner: str = field(default_factory=lambda: uuid4().hex)

    @property
    def file(self) -> Path:
        """The file that only the holder of this token writes."""
        return _file(self.place, self.token)

    def covers(self, path: Path) -> bool:
        """Return whether `path` is the folder, or lies in it."""
        return f"{_text(path)}/".startswith(_text(self.place).rstrip("/") + "/")

    def check(self) -> None:
        """Raise `LeaseLostError` if another run holds the lease by now."""
        last = max(_tokens(self.place), default=0)
        content, record = _read(self.file)
        if last > self.token or record.get("owner", self.owner) != self.owner:
            by = _describe(_read(_file(self.place, last))[1])
            raise LeaseLostError(
                f"{self.place} was taken over by {by}, because this run had shown no sign of life for "
                f"{LEASE_SECONDS:.0f} s; it ends here, and leaves the folder to that run"
            )
        if not content:
            raise LeaseLostError(
                f"{self.file} was deleted while this run wrote into {self.place}; see that no other run does, and run "
                "the same command again: what was finished is kept"
            )


_claims: ContextVar[tuple[Claim, ...]] = ContextVar("claims", default=())


def current_claims() -> tuple[Claim, ...]:
    """Return the claims of the run that this code belongs to, for `join_run` in another thread or process."""
    return _claims.get()


@contextmanager
def join_run(claims: tuple[Claim, ...]) -> Iterator[None]:
    """Let the code in the block work for the run that holds these leases."""
    before = _claims.set(claims)
    try:
        yield
    finally:
        _claims.reset(before)


def check_lease(path: Path) -> None:
    """Raise `LeaseLostError` if the run that this code belongs to has lost the lease of the folder of `path`.

    Call it right before `path` is replaced or deleted. Code outside of a run, such as a single step in a notebook, is
    not checked.
    """
    for claim in reversed(_claims.get()):  # the innermost one
        if claim.covers(path):
            claim.check()
            return


@contextmanager
def hold_lease(*places: Path) -> Iterator[None]:
    """Hold the leases of output folders in the block; those that the run holds already stay as they are.

    Raises `InUseError`, which names the other run, if one of them is held.
    """
    with ExitStack() as stack:
        held = {_text(claim.place) for claim in _claims.get()}
        claims = [stack.enter_context(_hold(place)) for place in places if _text(place) not in held]
        stack.enter_context(join_run((*_claims.get(), *claims)))
        yield


def find_holder(place: Path) -> str:
    """Return a phrase that names the run that seems to write into a folder; "" if there is none."""
    record = _read(_file(place, max(_tokens(place), default=0)))[1]
    if record.get("state") != _HELD or _is_running_here(record) is False:
        return ""
    return _describe(record)


@contextmanager
def _hold(place: Path) -> Iterator[Claim]:
    missing = [] if _stored(place) else [folder for folder in (place, *place.parents) if not folder.exists()]
    claim, record = _take(place)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(claim, record, ended), name=f"lease of {place}", daemon=True)
    beats.start()
    try:
        yield claim
    finally:
        ended.set()
        beats.join()
        # A lease that cannot be given back is succeeded like that of a dead run.
        with suppress(OSError, CopytraceError):
            claim.check()
            _rewrite(claim.file, record | {"state": _FREE, "heartbeat": _now()})
            if {path.name for path in place.iterdir()} == {FOLDER}:
                _leave_nothing(claim, missing)


def _leave_nothing(claim: Claim, missing: Sequence[Path]) -> None:
    """Remove the lease of a run that has written nothing, and the folders that were missing before."""
    claim.file.unlink()
    if not _stored(claim.place):
        for folder in (claim.file.parent, *missing):
            folder.rmdir()


def _beat(claim: Claim, record: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            claim.check()
            _rewrite(claim.file, record | {"heartbeat": _now()})
        except LeaseLostError:
            return  # the run finds out before it changes anything
        except (OSError, CopytraceError) as error:
            logger.warning("%s cannot be written (%s); trying again in %.0f s", claim.file, error, BEAT_SECONDS)


def _take(place: Path) -> tuple[Claim, dict[str, Any]]:
    """Return a claim whose lease this process holds, and the content of its file."""
    for _ in range(ATTEMPTS):
        before = max(_tokens(place), default=0)
        content, other = _read(_file(place, before))
        if content and other.get("state") != _FREE and _is_alive(place, before, content, other):
            raise InUseError(
                f"{place} is in use by {_describe(other)}; wait until that has ended, stop it, or give another folder"
            )
        claim = Claim(place, before + 1)
        record = _record(claim)
        if not _create(claim.file, _encode(record)) or max(_tokens(place), default=0) > claim.token:
            _withdraw(claim)
            continue
        for earlier in [_file(place, token) for token in _tokens(place) if token < claim.token]:
            earlier.unlink(missing_ok=True)
        if other.get("state") != _FREE:
            _sweep(place)
        return claim, record
    raise InUseError(f"{place} is wanted by many runs at the same moment; run the same command again")


def _withdraw(claim: Claim) -> None:
    """Remove the file of a claim that came too late, if it was created at all."""
    if _read(claim.file)[1].get("owner") == claim.owner:
        claim.file.unlink(missing_ok=True)


def _is_alive(place: Path, token: int, content: bytes, record: dict[str, Any]) -> bool:
    """Return whether the holder of a token lives; on another machine, watch its file until that is known."""
    here = _is_running_here(record)
    if here is not None:
        return here
    logger.warning(
        "%s was last written by %s; looking for up to %.0f s whether that still runs",
        *(place, _describe(record), LEASE_SECONDS),
    )
    deadline = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(SECONDS_BETWEEN_LOOKS, LEASE_SECONDS / 10))
        now, after = _read(_file(place, token))
        if now and now != content:
            return after.get("state") != _FREE
        if not now and token not in _tokens(place):
            return False
    return False


def _is_running_here(record: dict[str, Any]) -> bool | None:
    """Return whether the process of a record runs, or None if this machine cannot tell."""
    if record.get("machine") != machine_identity() or not isinstance(record.get("pid"), int):
        return None
    return start_of_process(record["pid"]) == record.get("process")


def _record(claim: Claim) -> dict[str, Any]:
    program, *arguments = sys.argv or ["python"]
    command = " ".join([Path(program).name, *map(redact, arguments)])
    return {
        "state": _HELD,
        "owner": claim.owner,
        "token": claim.token,
        "command": command[:LONGEST_COMMAND],
        "host": socket.gethostname(),
        "machine": machine_identity(),
        "pid": os.getpid(),
        "process": start_of_process(os.getpid()),
        "since": _now(),
        "heartbeat": _now(),
    }


def _describe(record: dict[str, Any]) -> str:
    if not record:
        return "another run, of which nothing is known"
    who = f"`{record.get('command')}` (process {record.get('pid')} on {record.get('host')})"
    return f"{who}, which began {record.get('since')} and gave a sign of life {record.get('heartbeat')}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(path: Path) -> str:
    return str(path) if _stored(path) else os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps "a/../b"


def _stored(path: Path) -> StoredPath | None:
    value: object = path
    return value if isinstance(value, StoredPath) else None


def _file(place: Path, token: int) -> Path:
    return place / FOLDER / f"token-{token}.json"


def _tokens(place: Path) -> list[int]:
    names = [path.stem.removeprefix("token-") for path in (place / FOLDER).glob("token-*.json")]
    return [int(name) for name in names if name.isdecimal()]


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the content of a file and what it says; nothing if there is no such file, or it cannot be understood."""
    try:
        content = path.read_bytes()
        record = parse_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return b"", {}
    except ValueError:
        return content, {}
    return content, record if isinstance(record, dict) else {}


def _encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _create(path: Path, content: bytes) -> bool:
    """Create a file whole, and return whether it is there now with this content, and not that of another process."""
    if remote := _stored(path):
        remote.create(content)
    else:
        _create_local(path, content)
    # Read, because an answer may have been lost, and a store may not know conditional requests.
    return _read(path)[0] == content


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


def _rewrite(path: Path, record: dict[str, Any]) -> None:
    """Write a file of this process again. Raises `FileNotFoundError` if it is gone."""
    if remote := _stored(path):
        remote.write_bytes(_encode(record))
        return
    with path.open("r+b") as file:  # in place, so that a file that was deleted stays so
        file.write(_encode(record))


def _sweep(place: Path) -> None:
    """Delete what a dead run had begun to write on a disk; a store shows no unfinished objects."""
    if _stored(place):
        return
    for path in place.rglob(".*.part"):
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)
