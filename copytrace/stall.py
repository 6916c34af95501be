"""Steps that do not move: a process whose source or store hangs ends with a reason, instead of never."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from copytrace.errors import ConfigError

LIMIT = "COPYTRACE_STALL_MINUTES"
"""Environment variable: the minutes for which a step may stand still; 0 is for ever."""
DEFAULT_MINUTES = 120.0
LONGEST_MINUTES = 1e6  # about two years
_CHECKS = 20  # until the limit


class StallGuard:
    """The signs of progress of one step."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = 0
        self.has_moved = True

    def advance(self, count: int = 1) -> None:
        """Note that `count` more units are done."""
        self._done += count
        self.has_moved = True

    def resize(self, total: int) -> None:
        """Note that the step consists of `total` units."""
        self._total = total

    def reason(self, minutes: float) -> str:
        """Return the line that says what stands still, and what to do."""
        return (
            f"'{self._name}' has stood at {self._done:,} of {self._total:,} {self._unit} for {minutes:g} min, so the "
            "run ends here. See whether its media and its store can be reached, and run the same command again: what "
            f"was finished is kept. {LIMIT} sets the limit, 0 for none"
        )


@contextmanager
def end_if_stalled(name: str, total: int, unit: str, end: Callable[[str], None]) -> Iterator[StallGuard]:
    """Yield the guard of a step of `total` units; if it does not advance for too long, call `end` with a reason.

    `end` is called in another thread, and then the process exits with code 1, as nothing else ends a read that hangs.
    Files are whole or absent all the same. Time in which the process itself was paused does not count. Raises
    `ConfigError` if the limit that the environment sets is no number of minutes.
    """
    guard, ended, minutes = StallGuard(name, total, unit), threading.Event(), _limit_minutes()

    def watch() -> None:
        checks = 0
        # A paused process wakes up in one such wait, however long it was paused.
        while not ended.wait(60 * minutes / _CHECKS):
            checks = 0 if guard.has_moved else checks + 1
            guard.has_moved = False
            if checks >= _CHECKS:
                try:
                    end(guard.reason(minutes))
                finally:
                    os._exit(1)

    if minutes:
        threading.Thread(target=watch, name=f"progress of {name}", daemon=True).start()
    try:
        yield guard
    finally:
        ended.set()


def _limit_minutes() -> float:
    text = os.environ.get(LIMIT) or str(DEFAULT_MINUTES)
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes <= LONGEST_MINUTES:
        raise ConfigError(f"{LIMIT}={text!r} is not a number of minutes; set it to 0 or more, or not at all")
    return minutes
