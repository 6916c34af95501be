"""Reading of small files that somebody names: whatever lies there, such as a device without an end, is soon refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

MOST_BYTES = 1 << 20  # of a file of settings, of a spec and of a calibration, which have some kilobytes
MOST_CHARACTERS = 1 << 20  # of a line of a table


def read_small_file(path: Path) -> bytes:
    """Return the content of a file of at most `MOST_BYTES`. Raises `ValueError` for a larger one, and `OSError`."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return content


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text file, with their ends. Raises `ValueError` at one of over `MOST_CHARACTERS`."""
    number = 0
    while line := file.readline(MOST_CHARACTERS + 1):
        number += 1
        if len(line) > MOST_CHARACTERS:
            raise ValueError(f"line {number:,} has more than {MOST_CHARACTERS:,} characters")
        yield line
