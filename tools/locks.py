"""What the files in locks/ say: which package at which version, for which Python and platform, with which hashes."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent.parent / "locks"
SETS = ("cpu-dev", "cpu-stack", "gpu-dev", "gpu-stack")
_HASH = re.compile(r"\s--hash=sha256:[0-9a-f]{64}\b")


def read_lock(path: Path) -> dict[str, Requirement]:
    """Return a lock's requirements by normalized name.

    Raise `ValueError` if one is not pinned by ==, has no hash, or stands there twice.
    """
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    locked: dict[str, Requirement] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        if not entry.strip():
            continue
        without_hashes, hashes = _HASH.subn("", entry)
        requirement = Requirement(without_hashes)
        name = canonicalize_name(requirement.name)
        if not hashes or name in locked or not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise ValueError(
                f"{path.name}: {name} is not pinned once, by == and with hashes: renew it with `make lock`"
            )
        locked[name] = requirement
    return locked


def version_of(requirement: Requirement) -> str:
    """Return the version that a locked requirement names."""
    return str(requirement.specifier).removeprefix("==")
