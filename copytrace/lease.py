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
for a run on the same or on other machines get its claims, and check them likewise. A check lists the tokens and reads
the holder's file; in a store, it reads the file only if the listing has another ETag of it than before.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
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

from copytrace.errors import CopytraceError, InUseError, LeaseLostError
from copytrace.lease_files import (
    FOLDER,
    create_token,
    list_tokens,
    read_token,
    rewrite_token,
    sweep_parts,
    token_file,
)
from copytrace.object_store import as_stored_path, redact
from copytrace.processes import is_process_hidden, machine_identity, start_of_process

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""A holder on another machine that has shown no sign of life for so long is taken for dead."""
SECONDS_BETWEEN_LOOKS = 0.5
ATTEMPTS = 20  # each fails only because another process took the lease in between
LONGEST_COMMAND = 200  # characters

_HELD, _FREE = "held", "free"  # of the same length, so that a file keeps its size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The lease of the folder `place`, as a run holds it; it can be sent to the processes that work for the run."""

    place: Path
    token: int
    owner: str = field(default_factory=lambda: uuid4().hex)
    _etags: set[str] = field(default_factory=set, compare=False, repr=False)  # that of its file, when it was last read

    @property
    def file(self) -> Path:
        """The file that only the holder of this token writes."""
        return token_file(self.place, self.token)

    def covers(self, path: Path) -> bool:
        """Return whether `path` is the folder, or lies in it."""
        return f"{_text(path)}/".startswith(_text(self.place).rstrip("/") + "/")

    def check(self) -> None:
        """Raise `LeaseLostError` if another run holds the lease by now."""
        etags = list_tokens(self.place)
        last, etag = max(etags, default=0), etags.get(self.token, "")
        if last == self.token and etag in self._etags:
            return
        content, record = read_token(self.file)
        if last > self.token or record.get("owner", self.owner) != self.owner:
            by = _describe(read_token(token_file(self.place, last))[1])
            raise LeaseLostError(
                f"{self.place} was taken over by {by}, because this run had shown no sign of life for "
                f"{LEASE_SECONDS:.0f} s; it ends here, and leaves the folder to that run"
            )
        if not content:
            raise LeaseLostError(
                f"{self.file} was deleted while this run wrote into {self.place}; see that no other run does, and run "
                "the same command again: what was finished is kept"
            )
        self._etags.clear()
        self._etags.update({etag} - {""})


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
    record = read_token(token_file(place, max(list_tokens(place), default=0)))[1]
    if record.get("state") != _HELD or _is_running_here(record) is False:
        return ""
    return _describe(record)


@contextmanager
def _hold(place: Path) -> Iterator[Claim]:
    missing = [] if as_stored_path(place) else [folder for folder in (place, *place.parents) if not folder.exists()]
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
            rewrite_token(claim.file, record | {"state": _FREE, "heartbeat": _now()})
            if {path.name for path in place.iterdir()} == {FOLDER}:
                _leave_nothing(claim, missing)


def _leave_nothing(claim: Claim, missing: Sequence[Path]) -> None:
    """Remove the lease of a run that has written nothing, and the folders that were missing before."""
    claim.file.unlink()
    if not as_stored_path(claim.place):
        for folder in (claim.file.parent, *missing):
            folder.rmdir()


def _beat(claim: Claim, record: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            claim.check()
            rewrite_token(claim.file, record | {"heartbeat": _now()})
        except LeaseLostError:
            return  # the run finds out before it changes anything
        except (OSError, CopytraceError) as error:
            logger.warning("%s cannot be written (%s); trying again in %.0f s", claim.file, error, BEAT_SECONDS)


def _take(place: Path) -> tuple[Claim, dict[str, Any]]:
    """Return a claim whose lease this process holds, and the content of its file."""
    for _ in range(ATTEMPTS):
        before = max(list_tokens(place), default=0)
        content, other = read_token(token_file(place, before))
        if content and other.get("state") != _FREE and _is_alive(place, before, content, other):
            raise InUseError(
                f"{place} is in use by {_describe(other)}; wait until that has ended, stop it, or give another folder"
            )
        claim = Claim(place, before + 1)
        record = _record(claim)
        if not create_token(claim.file, record) or max(list_tokens(place), default=0) > claim.token:
            _withdraw(claim)
            continue
        for earlier in [token_file(place, token) for token in list_tokens(place) if token < claim.token]:
            earlier.unlink(missing_ok=True)
        if other.get("state") != _FREE:
            sweep_parts(place)
        return claim, record
    raise InUseError(f"{place} is wanted by many runs at the same moment; run the same command again")


def _withdraw(claim: Claim) -> None:
    """Remove the file of a claim that came too late, if it was created at all."""
    if read_token(claim.file)[1].get("owner") == claim.owner:
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
        now, after = read_token(token_file(place, token))
        if now and now != content:
            return after.get("state") != _FREE
        if not now and token not in list_tokens(place):
            return False
    return False


def _is_running_here(record: dict[str, Any]) -> bool | None:
    """Return whether the process of a record runs, or None if this machine cannot tell."""
    if record.get("machine") != machine_identity() or not isinstance(record.get("pid"), int):
        return None
    if is_process_hidden(record["pid"]):
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
    return str(path) if as_stored_path(path) else os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps "a/../b"
