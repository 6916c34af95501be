"""What is wrong with a file that is meant for a challenge: each distinct fault once, with the first row that has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a file; `row` is the first row that has it, from 1, or None; `more` is the number of other rows."""

    what: str
    cure: str
    row: int | None = None
    more: int = 0

    def __str__(self) -> str:
        others = f" and {self.more:,} more" if self.more else ""
        where = f"row {self.row:,}{others}: " if self.row is not None else ""
        return f"{where}{self.what}; {self.cure}"


class Faults:
    """Collect the faults of one file; faults of the same kind become one."""

    def __init__(self) -> None:
        self._found: dict[str, Fault] = {}

    def add(self, what: str, cure: str, *, row: int | None = None, kind: str = "", count: int = 1) -> None:
        """Note a fault that `count` rows have, the first of them `row`; without a `kind`, `what` tells kinds apart."""
        kind = kind or what
        known = self._found.get(kind)
        if known is None:
            self._found[kind] = Fault(what, cure, row, count - 1)
        elif known.row is not None:
            self._found[kind] = Fault(known.what, known.cure, known.row, known.more + count)

    def add_rows(
        self, bad: ArrayLike, what: str, cure: str, *, values: ArrayLike | None = None, before: int = 0
    ) -> None:
        """Note a fault of all rows where `bad`, bool (n,), is true.

        `values` (n,) are shown for the first of these rows; `before` is the number of rows in the blocks before.
        """
        rows = np.flatnonzero(bad)
        if rows.size:
            shown = "" if values is None else f" ({np.asarray(values)[rows[0]]!s})"
            self.add(f"{what}{shown}", cure, row=before + int(rows[0]) + 1, kind=what, count=int(rows.size))

    @property
    def found(self) -> tuple[Fault, ...]:
        """All faults: those of the whole file first, then by row."""
        return tuple(sorted(self._found.values(), key=lambda fault: fault.row or 0))

    def __bool__(self) -> bool:
        return bool(self._found)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The result of a check: `counts` of what the file holds, its `faults`, and what was `unchecked` without lists."""

    path: Path
    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    unchecked: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return one line that says what was checked, for a file without faults."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        unchecked = f"; not checked: {'; '.join(self.unchecked)}" if self.unchecked else ""
        return f"{self.path} is valid: {self.kind}, {counts}{unchecked}"
