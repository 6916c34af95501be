"""The command line in a process of its own: `copytrace`, or `python -m copytrace`."""

from __future__ import annotations

import atexit
import gc
import os
import sys

OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    """Run the command that was given."""
    open_closed_streams()
    # Nearly all objects that imports make stay. To look through them every 700 objects, and when the process ends,
    # takes a tenth of a short run.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)
    from copytrace.cli import app  # noqa: PLC0415

    app()


def open_closed_streams() -> None:
    """Open standard streams that are closed, so that no file gets their numbers, to which libraries write warnings."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the smallest number that is free
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
