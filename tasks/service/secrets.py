"""Passwords and keys, generated on the first start and stored in files that only their owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def read_or_create_secret(path: Path) -> str:
    """Return the secret in `path`; if there is none, generate one and write it there with mode 0600."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24).replace("-", "x").replace("_", "y"))
    return path.read_text(encoding="ascii")


def write_private(path: Path, text: str) -> Path:
    """Write `text` into a file that only the owner can read, and return `path`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return partial.replace(path)
