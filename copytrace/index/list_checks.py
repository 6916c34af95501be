"""Where inverted lists lie in their file, and checks of them when a search first needs them."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32

from copytrace.arrays import Numbers
from copytrace.checked_files import checked_copy, checks_of
from copytrace.checksums import MappedChecks, damage_error
from copytrace.index.point_quantizer import CODE_BYTES
from copytrace.object_store import as_stored_path

PLACE_BYTES = 8
POINT_BYTES = CODE_BYTES + PLACE_BYTES
_ADVISED = 1 << 26  # bytes that the disk is asked for before they are checked
_ADVISED_AT_ONCE = 1 << 17  # more than that, some kernels cut off


def read_list_table(path: Path, record: Path) -> Numbers:
    """Return the length of each list, its room in points, its first byte, and the CRC-32 of its bytes, int64 [L, 4].

    Lists of an older version have no CRC-32 of their own: int64 [L, 3].
    """
    with checked_copy(path.with_suffix(".lists"), record) as file:
        return np.ascontiguousarray(np.load(file, allow_pickle=False), np.int64)


class ListChecks:
    """Checks of inverted lists in a local file that is mapped into memory, each once, when a search first reads it.

    They are read in the order of the file, and a disk is told in advance which of them, so that it reads no others.
    """

    def __init__(self, path: Path, table: Numbers) -> None:
        self._path, self._first, self._sum = path, table[:, 2], table[:, 3]
        self._end = table[:, 2] + table[:, 1] * POINT_BYTES
        self._is_checked = self._first == self._end
        with path.open("rb") as file:
            self._mapped = None if self._is_checked.all() else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._mapped is not None and hasattr(mmap, "MADV_RANDOM"):  # not on Windows
            self._mapped.madvise(mmap.MADV_RANDOM)

    def check_lists(self, lists: Numbers) -> None:
        """Check lists by their numbers, int64 of any shape, unless they were checked before; −1 stands for none.

        Raises `DamagedFileError`.
        """
        needed = np.zeros(len(self._is_checked) + 1, bool)
        needed[lists] = True
        new = np.flatnonzero(needed[:-1] & ~self._is_checked)
        if self._mapped is None or not len(new):
            return
        runs = np.cumsum(self._end[new] - self._first[new]) // _ADVISED
        with memoryview(self._mapped) as content:
            for run in range(int(runs[-1]) + 1):
                part = new[runs == run]
                self._advise(part)
                for number, first, end in zip(part, self._first[part].tolist(), self._end[part].tolist(), strict=True):
                    if crc32(content[first:end]) != self._sum[number]:
                        raise damage_error(self._path, f"damaged at byte {first:,} or behind")
        self._is_checked[new] = True

    def _advise(self, lists: Numbers) -> None:
        if self._mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        for first, end in zip(self._first[lists].tolist(), self._end[lists].tolist(), strict=True):
            for start in range(first // mmap.PAGESIZE * mmap.PAGESIZE, end, _ADVISED_AT_ONCE):
                self._mapped.madvise(mmap.MADV_WILLNEED, start, min(_ADVISED_AT_ONCE, end - start))


class BlockwiseListChecks:
    """The same for lists of an older version: checks of the blocks of the file that hold them."""

    def __init__(self, checks: MappedChecks, table: Numbers) -> None:
        self._checks, self._first = checks, table[:, 2]
        self._end = table[:, 2] + table[:, 1] * POINT_BYTES

    def check_lists(self, lists: Numbers) -> None:
        """See `ListChecks`."""
        needed = np.unique(lists[lists >= 0])
        self._checks.check_parts(self._first[needed], self._end[needed])


def list_checks(path: Path, record: Path) -> ListChecks | BlockwiseListChecks | None:
    """Return checks of the lists in a local file by a record; None if it has none, or for an object in a store.

    An object is checked as a whole when `read_lists` fetches it. Raises `DamagedFileError` if the file has another size
    than the record says.
    """
    checks = None if as_stored_path(path) else checks_of(path, record)
    if checks is None:
        return None
    table = read_list_table(path, record)
    if table.shape[1] == 3:
        return BlockwiseListChecks(MappedChecks(checks, path), table)
    checks.check_size(path.stat().st_size)
    return ListChecks(path, table)
