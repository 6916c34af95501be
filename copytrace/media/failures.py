"""Files that could not be read: their list in `failures.csv`, and the limit on their number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from copytrace.errors import InputError, TooManyFailuresError
from copytrace.storage import write_text


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that a stage could not use, with the reason in one line."""

    id: str
    path: str
    stage: str
    error: str


_COLUMNS = [field.name for field in fields(Failure)]


def write_failures(path: Path, failures: Iterable[Failure]) -> Path:
    """Write the CSV `id,path,stage,error`, sorted, and return `path`.

    The file is replaced atomically. Each error becomes one line.
    """
    rows = sorted((*astuple(failure)[:3], " ".join(failure.error.split())) for failure in failures)
    # `csv` leaves a lone carriage return unquoted, and then reads it as the end of a row.
    returns = any("\r" in field for row in rows for field in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerows([_COLUMNS, *rows])
    return write_text(path, text.getvalue())


def read_failures(path: Path) -> list[Failure]:
    """Return the failures that `write_failures` wrote. Raises `InputError` if the file has another header."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if next(rows, []) != _COLUMNS:
            raise InputError(f"{path} is not a list of failures; its header must be {','.join(_COLUMNS)}")
        return [Failure(*row) for row in rows]


def gather_failures(lists: Iterable[Path], path: Path) -> Path:
    """Write the failures of all lists to `path`, and return it; skip lists that do not exist."""
    failures: list[Failure] = []
    for each in lists:
        try:
            failures += read_failures(each)
        except FileNotFoundError:
            continue
    return write_failures(path, failures)


def check_failure_rate(failed: int, total: int, max_rate: float, failures_path: Path) -> None:
    """Raise `TooManyFailuresError` if more than `max_rate` (0 to 1) of `total` files failed."""
    if failed > max_rate * total:
        raise TooManyFailuresError(
            f"{failed:,} of {total:,} files failed ({failed / max(total, 1):.1%}), more than max_failure_rate "
            f"{max_rate:.1%}; see the reasons in {failures_path}, mend the files or raise max_failure_rate"
        )
