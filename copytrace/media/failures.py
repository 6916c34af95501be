"""Files that cannot be used: the reason of each, the lists of them in CSV files, and how many of them are too many."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from copytrace.cells import neutralize, restore
from copytrace.errors import InputError, MediaError, TooManyFailuresError
from copytrace.object_store import redact
from copytrace.storage import is_uri, write_text


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or folder that a stage could not use, or passed over, with the reason in one line."""

    id: str
    path: str
    stage: str
    error: str


_COLUMNS = [field.name for field in fields(Failure)]


def write_failures(path: Path, failures: Iterable[Failure]) -> Path:
    """Write the CSV `id,path,stage,error`, sorted, and return `path`.

    The file is replaced atomically. Each error becomes one line, of a path only what is no secret remains, and texts
    that a spreadsheet would run are neutralized.
    """
    lines = ((each.id, redact(each.path), each.stage, " ".join(each.error.split())) for each in failures)
    rows = sorted(tuple(map(neutralize, line)) for line in lines)
    # `csv` leaves a lone carriage return unquoted, and then reads it as the end of a row.
    returns = any("\r" in field for row in rows for field in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerows([_COLUMNS, *rows])
    return write_text(path, text.getvalue())


def read_failures(path: Path) -> list[Failure]:
    """Return the failures that `write_failures` wrote. Raises `InputError` if the file is none, or is damaged."""
    return parse_failures(path.read_bytes(), path)


def parse_failures(content: bytes, path: Path) -> list[Failure]:
    """Return the failures in the content of a file that `write_failures` wrote to `path`; see `read_failures`."""
    try:
        rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
        if next(rows, []) != _COLUMNS:
            raise InputError(f"{path} is not a list of failures; its header must be {','.join(_COLUMNS)}")
        return [Failure(*map(restore, row)) for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged; delete it, and run the same command again") from error


def check_failure_rate(failed: int, total: int, max_rate: float, failures_path: Path, *, what: str = "files") -> None:
    """Raise `TooManyFailuresError` if more than `max_rate` (0 to 1) of `total` media failed.

    One failure among several media is borne, unless `max_rate` is 0. `what` names the media in the message.
    """
    borne = 1 if max_rate and total > 1 else 0
    if failed > max(max_rate * total, borne):
        raise TooManyFailuresError(
            f"{failed:,} of {total:,} {what} cannot be read ({failed / max(total, 1):.1%}), and media.max_failure_rate "
            f"allows {max_rate:.1%}; the reasons are in {failures_path}; mend or remove the files, or give a larger "
            "media.max_failure_rate"
        )


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Raise `MediaError` with a one-line reason, without the path, if a local file or a URI cannot be read."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError("file not found") from error
    except PermissionError as error:
        raise MediaError("permission denied") from error
    except Exception as error:
        if is_uri(path):
            # A store's client raises errors of many types. Their texts may contain keys; the names of the types do not.
            raise MediaError(f"cannot be fetched ({type(error).__name__})") from error
        if isinstance(error, OSError | ValueError):  # ValueError: a null byte in the path
            raise MediaError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        raise
