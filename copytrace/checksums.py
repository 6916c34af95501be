"""Checksums of files, block by block, so that a part of a file is checked when that part is read.

A file's checksums are a text: its size in bytes and the CRC-32 of each block of 256 KiB, in hexadecimal digits. Any
flipped bit, and any damage within 32 bits, changes them; other damage does with a probability of 1 − 2⁻³² per block.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal.isal_zlib import crc32

from copytrace.arrays import Numbers
from copytrace.errors import DamagedFileError
from copytrace.seekable import SeekableReader

BLOCK = 1 << 18  # bytes
_DIGITS = 8  # of a CRC-32


def checksums_of(file: Path) -> str:
    """Return the checksums of a local file."""
    with file.open("rb") as opened:
        return checksums_of_stream(opened)


def checksums_of_stream(stream: IO[bytes]) -> str:
    """Return the checksums of what is left of a stream."""
    size, sums = 0, []
    while block := stream.read(BLOCK):
        size += len(block)
        sums.append(f"{crc32(block):0{_DIGITS}x}")
    return f"{size}:{''.join(sums)}"


def noted_size(checksums: str) -> int:
    """Return the size in bytes of the file that checksums are of."""
    return int(checksums.partition(":")[0])


_written: ContextVar[dict[str, str] | None] = ContextVar("written", default=None)


@contextmanager
def collect_checksums() -> Iterator[dict[str, str]]:
    """Yield a dictionary that gets, by its path, the checksums of each file that this thread writes in the block."""
    collected: dict[str, str] = {}
    before = _written.set(collected)
    try:
        yield collected
    finally:
        _written.reset(before)


def note_written(path: Path, file: Path) -> None:
    """Tell `collect_checksums` that the content of a local file is about to become `path`."""
    if (collected := _written.get()) is not None:
        collected[str(path)] = checksums_of(file)


def damage_error(path: Path, what: str = "damaged") -> DamagedFileError:
    """Return the error for a file of an index or of a run that is damaged, or is what `what` says."""
    error = DamagedFileError(
        f"{path} is {what}; run `copytrace verify {root_of(path)} --repair`, and then the command that made it: only "
        "what is damaged is made again"
    )
    error.what = what
    return error


def root_of(path: Path) -> Path:
    """Return the index or the output folder that a file lies in."""
    for folder in path.parents:
        if folder.name and any((folder / name).exists() for name in (".lease", "index.json", "plan.parquet", "work")):
            return folder
    return path.parent


class BlockChecks:
    """The checksums of one file, `path`, by which its blocks are checked."""

    def __init__(self, path: Path, checksums: str) -> None:
        self._path = path
        size, _, digits = checksums.partition(":")
        self.size = int(size)
        self._sums = [int(digits[at : at + _DIGITS], 16) for at in range(0, len(digits), _DIGITS)]

    def check_size(self, size: int) -> None:
        """Raise `DamagedFileError` if the file has another size in bytes."""
        if size != self.size:
            raise damage_error(self._path, f"damaged: it has {size:,} bytes instead of {self.size:,}")

    def check(self, first: int, data: memoryview) -> None:
        """Raise `DamagedFileError` if the blocks in `data`, whose first one has the number `first`, are damaged."""
        for number, start in enumerate(range(0, len(data), BLOCK), first):
            # A file that was cut while it was read has fewer bytes in its last block.
            if crc32(data[start : start + BLOCK]) != self._sums[number]:
                raise damage_error(self._path, f"damaged at byte {number * BLOCK:,} or behind")

    def check_stream(self, stream: IO[bytes]) -> None:
        """Raise `DamagedFileError` unless a stream has the right content."""
        self.check_size(stream.seek(0, io.SEEK_END))
        stream.seek(0)
        for number in range(len(self._sums)):
            self.check(number, memoryview(stream.read(BLOCK)))


class MappedChecks:
    """Checks of the parts of a local file that is mapped into memory, each block once, when it is needed."""

    def __init__(self, checks: BlockChecks, file: Path) -> None:
        self._checks, self.size = checks, checks.size
        checks.check_size(file.stat().st_size)
        self._bytes = np.memmap(file, np.uint8, "r") if checks.size else np.zeros(0, np.uint8)
        self._is_checked = np.zeros(-(-checks.size // BLOCK), bool)

    def check_parts(self, first: Numbers, end: Numbers) -> None:
        """Check the blocks of N parts of the file, from the bytes `first` int64 [N] to `end` int64 [N].

        Blocks that were checked before are passed over. Raises `DamagedFileError`.
        """
        is_empty = first >= end
        first, end = first[~is_empty] // BLOCK, (end[~is_empty] - 1) // BLOCK + 1
        steps = np.zeros(len(self._is_checked) + 1, np.int64)
        np.add.at(steps, first, 1)
        np.add.at(steps, end, -1)
        needed = np.cumsum(steps[:-1]) > 0
        for number in np.flatnonzero(needed & ~self._is_checked).tolist():
            self._checks.check(number, self._bytes[number * BLOCK : (number + 1) * BLOCK].data)
            self._is_checked[number] = True


class CheckedStream(SeekableReader):
    """A seekable stream over another one that checks each block of which something is read."""

    def __init__(self, stream: IO[bytes], checks: BlockChecks) -> None:
        super().__init__(checks.size)
        self._stream, self._checks = stream, checks
        checks.check_size(stream.seek(0, io.SEEK_END))

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, and return the number of bytes, which is smaller at the end."""
        view = memoryview(buffer).cast("B")
        end = min(self.position + len(view), self.size)
        if end <= self.position:
            return 0
        first = self.position // BLOCK
        begin, last = first * BLOCK, min(-(-end // BLOCK) * BLOCK, self.size)
        self._stream.seek(begin)
        data = memoryview(self._stream.read(last - begin))
        if len(data) != last - begin:
            self._checks.check_size(begin + len(data))
        self._checks.check(first, data)
        count = end - self.position
        view[:count] = data[self.position - begin : end - begin]
        self.position = end
        return count

    def close(self) -> None:
        """Close both streams."""
        self._stream.close()
        super().close()
