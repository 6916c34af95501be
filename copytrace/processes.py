"""Processes: what tells one from a later one with the same number, and whose numbers they are."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path

import psutil

_PROC = Path("/proc")


@lru_cache
def machine_identity() -> str:
    """Return a digest of what numbers processes: a machine since its start and, on Linux, a namespace of processes."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        parts = [boot, str((_PROC / "self/ns/pid").readlink())]  # containers number their processes by themselves
    except OSError:
        parts = [socket.gethostname(), f"{psutil.boot_time():.0f}"]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def start_of_process(pid: int) -> str:
    """Return a text that tells a process from others with its number on this machine; "" if none of it runs."""
    try:
        if (_PROC / "self").exists():
            # Not psutil's time of creation, which on Linux changes when the clock is set.
            fields = (
                (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            return "" if fields[0] in "ZX" else fields[19]
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except (OSError, psutil.Error):
        return ""


def is_process_hidden(pid: int) -> bool:
    """Return whether another user's process has this number and /proc does not show it (`hidepid`, `ProtectProc`)."""
    if os.access(_PROC / str(pid) / "stat", os.R_OK):
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False
