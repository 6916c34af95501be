"""The command line in a process of its own: `copytrace`, or `python -m copytrace`."""

from __future__ import annotations

import atexit
import gc

OBJECTS_BETWEEN_COLLECTIONS = 50_000


def main() -> None:
    """Run the command that was given."""
    # Nearly all objects that imports make stay. To look through them every 700 objects, and when the process ends,
    # takes a tenth of a short run.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)
    from copytrace.cli import app  # noqa: PLC0415

    app()


if __name__ == "__main__":
    main()
