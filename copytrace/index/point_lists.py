"""Inverted lists of local points: a point is found among those of the few lists that are nearest to it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.checked_files import checked_copy, checks_of, damage_errors
from copytrace.checksums import MappedChecks, damaged
from copytrace.features.variants import CanonicalForm
from copytrace.index.point_places import pack_places, unpack_places
from copytrace.index.point_quantizer import (
    BLOCK,
    CODE_BYTES,
    ListLevel,
    NearestLists,
    PointQuantizer,
    pack_codes,
)
from copytrace.index.shard_files import View
from copytrace.storage import as_stored_path, atomic_path

PLACE_BYTES = 8
POINTS_AT_ONCE = 1 << 18
WRITTEN_AT_ONCE = 1 << 22  # points


class ListedPoints(NamedTuple):
    """The K points nearest to each of Q canonical points, nearest first, of one set of lists.

    `distance` float32 [Q, K] is squared. `image` int64 [Q, K] is the number of the point's image; −1, and an infinite
    distance, if there is no further point. `variant` int64 [Q, K] is the number of the variant that is the point's
    canonical form. `geometry` float32 [Q, K, 4] has x, y, scale and angle, in short sides of the image.
    """

    distance: Floats
    image: Numbers
    variant: Numbers
    geometry: Floats


@dataclass(frozen=True, slots=True)
class PointLists:
    """Inverted lists of the points of R images.

    `sides` float32 [R, 2] are their width and height; `current` bool [R] tells which are still in the index.
    """

    lists: Any
    sides: Floats
    current: NDArray[np.bool_]
    checks: ListChecks | None = None

    def search(self, points: Floats, nearest: NearestLists, neighbours: int, first: int) -> ListedPoints:
        """Return the points in the `nearest` lists that are nearest to canonical `points` float32 [Q, 128].

        `first` is the number of the first image. Raises `DamagedFileError` if one of the lists is damaged.
        """
        if self.checks:
            self.checks.need(nearest[1])
        self.lists.nprobe = nearest[1].shape[1]
        distance, packed = self.lists.search_preassigned(points, neighbours, nearest[1], nearest[0])
        distance += np.einsum("ij,ij->i", points, points)[:, None]  # what faiss leaves out, the same for all
        image, variant, geometry = unpack_places(packed, self.sides)
        found = (packed >= 0) & (self.current[image] if len(self.current) else False)
        distance = np.where(found, distance, np.float32(np.inf))
        return ListedPoints(distance, np.where(found, first + image, -1), variant, geometry)


class ListChecks:
    """Checks of inverted lists that are mapped into memory, each part once, when a search first reads it."""

    def __init__(self, checks: MappedChecks, table: Numbers) -> None:
        self._checks, self._first = checks, table[:, 2]
        self._end = table[:, 2] + table[:, 1] * (CODE_BYTES + PLACE_BYTES)
        self._is_checked = np.zeros(len(table), bool)

    def need(self, lists: Numbers) -> None:
        """Check some of the lists, int64 of any shape; −1 stands for none. Raises `DamagedFileError`."""
        needed = np.zeros(len(self._is_checked) + 1, bool)
        needed[lists] = True
        new = np.flatnonzero(needed[:-1] & ~self._is_checked)
        self._checks.need(self._first[new], self._end[new])
        self._is_checked[new] = True


class CodedPoints:
    """Up to `size` points, as they are put into inverted lists of a level: list, code and place of each."""

    def __init__(self, level: ListLevel, size: int) -> None:
        self.level = level
        self._members = np.zeros(size, np.uint32)
        self._codes = np.zeros((size, CODE_BYTES), np.uint8)
        self._places = np.zeros(size, np.int64)
        self._count = 0

    def add_views(self, form: CanonicalForm, views: Sequence[View], first: int = 0) -> None:
        """Add the canonical forms of the points of views.

        `first` is the number of the first view among the images of the lists.
        """
        for start, part in _batches(views):
            descriptors = np.concatenate([view.points.descriptor for view in part])
            canonical, variants = form.of(descriptors)
            members, codes = self.level.encode(canonical.astype(np.float32))
            self.add(members, codes, pack_places(part, variants, first + start))

    def add(self, members: Numbers, codes: NDArray[np.uint8], places: Numbers) -> None:
        """Add N points by their lists int64 [N], codes uint8 [N, 16] and places int64 [N]."""
        part = slice(self._count, self._count + len(members))
        self._members[part], self._codes[part], self._places[part] = members, codes, places
        self._count += len(members)

    def write(self, path: Path) -> Path:
        """Write the inverted lists so that a search can map them into memory, and return `path`.

        The codes of each list, in whole blocks, and the places of its points follow one another in `path`; an array
        beside it, `.lists`, has the length of each list, its room in points, and its first byte, int64 [L, 3].
        """
        members = self._members[: self._count]
        order = np.argsort(members, kind="stable")
        length = np.bincount(members, minlength=self.level.count)
        room = -(-length // BLOCK) * BLOCK
        end = np.cumsum(length)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            start = 0
            while start < len(length):
                done = end[start - 1] if start else 0
                last = max(int(np.searchsorted(end, done + WRITTEN_AT_ONCE, side="right")), start + 1)
                rows = order[done : end[last - 1]]
                file.write(_lists_as_bytes(length[start:last], self._codes[rows], self._places[rows]).data)
                start = last
        first = (np.cumsum(room) - room) * (CODE_BYTES + PLACE_BYTES)
        with atomic_path(path.with_suffix(".lists")) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack([length, room, first], axis=1).astype(np.int64))
        return path


def _lists_as_bytes(length: Numbers, codes: NDArray[np.uint8], places: Numbers) -> NDArray[np.uint8]:
    """Return lists of these lengths, given their points in order: the codes of each, then the places of each."""
    blocks = -(-length // BLOCK)
    # Where each point goes, if every list begins with a block of its own.
    shift = np.repeat((np.cumsum(blocks) - blocks) * BLOCK - (np.cumsum(length) - length), length)
    row = np.arange(len(codes)) + shift
    total = int(blocks.sum())
    padded = np.zeros((total * BLOCK, CODE_BYTES), np.uint8)
    padded[row] = codes
    numbers = np.zeros(total * BLOCK, np.int64)
    numbers[row] = places
    # In units of 256 bytes, a block has two of codes and one of places.
    inside = np.arange(total) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    begin = np.repeat(3 * (np.cumsum(blocks) - blocks), blocks)
    units = np.zeros((3 * total, PLACE_BYTES * BLOCK), np.uint8)
    packed = pack_codes(padded).reshape(total, 2, CODE_BYTES * BLOCK // 2)
    units[begin + 2 * inside], units[begin + 2 * inside + 1] = packed[:, 0], packed[:, 1]
    units[begin + 2 * np.repeat(blocks, blocks) + inside] = numbers.view(np.uint8).reshape(total, PLACE_BYTES * BLOCK)
    return units


def list_checks(path: Path, record: Path) -> ListChecks | None:
    """Return checks of the lists in a local file by a record; None if it has none, or for an object in a store.

    An object is checked as a whole when `read_lists` fetches it.
    """
    checks = None if as_stored_path(path) else checks_of(path, record)
    return ListChecks(MappedChecks(checks, path), _read_table(path, record)) if checks else None


def _read_table(path: Path, record: Path) -> Numbers:
    """Return the length of each list, its room in points, and its first byte, int64 [L, 3]."""
    with checked_copy(path.with_suffix(".lists"), record) as file:
        return np.ascontiguousarray(np.load(file, allow_pickle=False), np.int64)


def read_lists(path: Path, quantizer: PointQuantizer, record: Path | None = None) -> Any:
    """Map inverted lists of a quantizer into memory; those of a local file are checked by `ListChecks`.

    Raises `DamagedFileError` if a file is missing, or they do not fit.
    """
    record = record or path.with_suffix(".json")
    table = _read_table(path, record)
    lists = quantizer.level(len(table)).new_lists()
    inverted: Any = faiss.OnDiskInvertedLists()
    inverted.nlist, inverted.code_size, inverted.read_only = len(table), lists.code_size, True
    inverted.lists.resize(len(table))
    ctypes.memmove(int(inverted.lists.data().this), table.ctypes.data, table.nbytes)  # three size_t each
    opened = checked_copy(path, record) if as_stored_path(path) else nullcontext(path)
    with damage_errors(path, None), opened as file:
        inverted.totsize = file.stat().st_size
        ends = table[:, 2] + table[:, 1] * (CODE_BYTES + PLACE_BYTES)
        if len(table) != lists.nlist or ends.max(initial=0) != inverted.totsize or (table[:, 0] > table[:, 1]).any():
            raise damaged(path)
        inverted.filename = str(file)
        if inverted.totsize:
            inverted.do_mmap()
    lists.replace_invlists(inverted, True)
    inverted.this.disown()
    lists.ntotal = int(table[:, 0].sum())
    return lists


def _batches(views: Sequence[View]) -> Iterator[tuple[int, list[View]]]:
    """Yield runs of views with about `POINTS_AT_ONCE` points, with the number of their first view."""
    start = points = 0
    for number, view in enumerate(views):
        points += len(view.points)
        if points >= POINTS_AT_ONCE:
            yield start, list(views[start : number + 1])
            start, points = number + 1, 0
    if start < len(views):
        yield start, list(views[start:])
