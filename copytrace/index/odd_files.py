"""The files of a source that an index does not hold, or not to their end, and the lists of them.

    INDEX/failures.csv        what could not be read, or not to its end
    INDEX/passed_over.csv     what is no medium by its content, and links to what is searched anyway
    INDEX/unlisted.csv        of both, what was noted when the source was listed

    INDEX/lists.json          checksums of these

A run gathers the first two from its indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from copytrace.checked_files import checks_of, read_checked_bytes, record_files
from copytrace.errors import InputError, MediaError, NotMediumError
from copytrace.media.failures import Failure, check_failure_rate, parse_failures, read_failures, write_failures
from copytrace.media.files import Listing, MediaItem
from copytrace.media.folders import LINK, PASS_OVER, WORK

FAILURES, PASSED_OVER, LISTS = "failures.csv", "passed_over.csv", "lists.json"


def write_unlisted(root: Path, listing: Listing) -> Path:
    """Write down in the index at `root` what is odd in the listing of its source, and return the file."""
    with record_files(root / LISTS):
        return write_failures(_unlisted_path(root), [*listing.unreadable, *listing.passed_over])


def odd_file(item: MediaItem, error: MediaError | str, *, is_used: bool = False) -> Failure:
    """Return the row for a file that could not be read, was passed over or, if `is_used`, was read only in part."""
    stage = PASS_OVER if isinstance(error, NotMediumError) and not is_used else "decode"
    return Failure(item.id, item.path, stage, f"{error}; used up to there" if is_used else str(error))


def noted_failures(record: Mapping[str, Any], note: str) -> dict[str, Failure]:
    """Return, by id, the files that the record of a shard lists under `note`: its `failures`, or those `damaged`."""
    return {row["id"]: Failure(**row) for row in record.get(note, [])}


def write_odd_files(root: Path, described: Iterable[Failure]) -> None:
    """Write both lists of the index at `root`: of what describing noted, `described`, and of what listing noted."""
    rows = [*described, *_read_list(_unlisted_path(root), root / LISTS)]
    skipped = {PASS_OVER, LINK}
    with record_files(root / LISTS, _unlisted_path(root)):
        write_failures(root / PASSED_OVER, [row for row in rows if row.stage in skipped])
        write_failures(root / FAILURES, [row for row in rows if row.stage not in skipped])


def gather_odd_files(indexes: Sequence[Path], failures: Path) -> None:
    """Write the failures of all `indexes` to `failures`, and what they passed over to `passed_over.csv` beside it."""
    lists = {
        path: [row for index in indexes for row in _read_list(index / path.name, index / LISTS)]
        for path in (failures, failures.with_name(PASSED_OVER))
    }
    folder, kept = failures.parent, _unlisted_path(failures.parent)
    with record_files((folder if folder in indexes else folder / WORK) / LISTS, *([kept] if folder in indexes else [])):
        for path, rows in lists.items():
            write_failures(path, rows)


def count_passed_over(failures: Path) -> dict[str, int]:
    """Return the numbers of `files` that are no media and of `links`, by the list beside `failures`."""
    stages = [row.stage for row in read_failures(failures.with_name(PASSED_OVER))]
    return {"files": stages.count(PASS_OVER), "links": stages.count(LINK)}


def check_media(total: int, left_out: Sequence[Failure], max_failure_rate: float, failures: Path, what: str) -> None:
    """Raise an error if of `total` files too many are left out; files that were passed over do not count.

    `what` names the media: "images among the queries". Raises `InputError` if there are no media at all, and
    `TooManyFailuresError` as `check_failure_rate` does.
    """
    passed_over = sum(failure.stage == PASS_OVER for failure in left_out)
    if total == passed_over:
        raise InputError(
            f"there are no {what}: all {total:,} files were passed over, and {failures.with_name(PASSED_OVER)} says "
            "why; give other files, or use the commands for the other kind of media"
        )
    check_failure_rate(len(left_out) - passed_over, total - passed_over, max_failure_rate, failures, what=what)


def _read_list(path: Path, record: Path) -> list[Failure]:
    """Return the rows of a list; none if there is none, as of descriptors of another system.

    Raises `DamagedFileError`.
    """
    if not checks_of(path, record) and not path.exists():
        return []
    return parse_failures(read_checked_bytes(path, record), path)


def _unlisted_path(root: Path) -> Path:
    return root / "unlisted.csv"
