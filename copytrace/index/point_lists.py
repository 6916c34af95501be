"""Inverted lists of local points: a point is found among those of the few lists that are nearest to it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import faiss
import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.checked_files import checked_copy, damage_errors
from copytrace.checksums import damage_error
from copytrace.features.variants import CanonicalForm
from copytrace.index.list_checks import PLACE_BYTES, POINT_BYTES, BlockwiseListChecks, ListChecks, read_list_table
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
from copytrace.object_store import as_stored_path
from copytrace.storage import atomic_path

POINTS_AT_ONCE = 1 << 18
POINTS_IN_MEMORY = 1 << 25  # while lists are made; 28 bytes each
WRITTEN_AT_ONCE = 1 << 22  # points
# Points that are found beyond those wanted. Of points as far away as the last one, which are many where images show the
# same, faiss keeps any; those of the first images are to be kept, so that several segments find what one finds. The
# few points that have more of them are looked up again, with more; of more than the last number, faiss keeps any.
TIED = (4, 32, 256)


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
    checks: ListChecks | BlockwiseListChecks | None = None

    def search(self, points: Floats, nearest: NearestLists, neighbours: int, first: int) -> ListedPoints:
        """Return the points in the `nearest` lists that are nearest to canonical `points` float32 [Q, 128].

        Of points equally near, those of earlier images come first.
        `first` is the number of the first image. Raises `DamagedFileError` if one of the lists is damaged.
        """
        if self.checks:
            self.checks.check_lists(nearest[1])
        distance, packed, tied = self._find(points, nearest, neighbours, TIED[0])
        for beyond in TIED[1:]:
            if not len(rows := np.flatnonzero(tied)):
                break
            part = nearest[0][rows], nearest[1][rows]
            distance[rows], packed[rows], tied[rows] = self._find(points[rows], part, neighbours, beyond)
        distance += np.einsum("ij,ij->i", points, points)[:, None]  # what faiss leaves out, the same for all
        image, variant, geometry = unpack_places(packed, self.sides)
        found = (packed >= 0) & (self.current[image] if len(self.current) else False)
        distance = np.where(found, distance, np.float32(np.inf))
        return ListedPoints(distance, np.where(found, first + image, -1), variant, geometry)

    def _find(
        self, points: Floats, nearest: NearestLists, neighbours: int, beyond: int
    ) -> tuple[Floats, Numbers, NDArray[np.bool_]]:
        """Return distances and packed places [Q, K] of the nearest points, and for which of Q more may be as near."""
        shape = (len(points), neighbours + beyond)
        distance, packed = np.empty(shape, np.float32), np.empty(shape, np.int64)
        columns = [faiss.swig_ptr(np.ascontiguousarray(each)) for each in (points, nearest[1], nearest[0])]
        # The number of lists is a parameter, and not set in the lists: threads search them for different numbers.
        params: Any = faiss.SearchParametersIVF()
        params.nprobe = nearest[1].shape[1]
        found_in = (faiss.swig_ptr(distance), faiss.swig_ptr(packed))
        self.lists.search_preassigned_c(len(points), columns[0], shape[1], *columns[1:], *found_in, False, params)
        tied = (distance[:, -1] == distance[:, neighbours - 1]) & (packed[:, -1] >= 0)
        order = np.lexsort((packed, distance), axis=1)[:, :neighbours]
        return np.take_along_axis(distance, order, axis=1), np.take_along_axis(packed, order, axis=1), tied


class CodedPoints:
    """Up to `size` points, as they are put into inverted lists of a level: list, code and place of each.

    At most `POINTS_IN_MEMORY` are in memory; others wait in temporary files, in the order of their lists.
    """

    def __init__(self, level: ListLevel, size: int) -> None:
        self.level = level
        held = max(1, min(size, POINTS_IN_MEMORY))
        self._members = np.zeros(held, np.uint32)
        self._codes = np.zeros((held, CODE_BYTES), np.uint8)
        self._places = np.zeros(held, np.int64)
        self._count = 0
        self._runs: list[_Run] = []

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
        start = 0
        while start < len(members):
            if self._count == len(self._members):
                self._runs.append(self._sorted_run().to_disk())
                self._count = 0
            taken = min(len(members) - start, len(self._members) - self._count)
            part, given = slice(self._count, self._count + taken), slice(start, start + taken)
            self._members[part], self._codes[part], self._places[part] = members[given], codes[given], places[given]
            self._count, start = self._count + taken, start + taken

    def write(self, path: Path) -> Path:
        """Write the inverted lists so that a search can map them into memory, and return `path`.

        The codes of each list, in whole blocks, and the places of its points follow one another in `path`; an array
        beside it, `.lists`, has the length of each list, its room in points, its first byte, and the CRC-32 of its
        bytes, int64 [L, 4].
        """
        runs = [*self._runs, self._sorted_run()]
        end: Numbers = np.sum([run.bounds for run in runs], axis=0)
        length, sums = np.diff(end), np.zeros(len(end) - 1, np.int64)
        room = -(-length // BLOCK) * BLOCK
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            start = 0
            while start < len(length):
                last = max(int(np.searchsorted(end[1:], end[start] + WRITTEN_AT_ONCE, side="right")), start + 1)
                content = _lists_as_bytes(length[start:last], *_join_runs(runs, start, last)).ravel().data
                file.write(content)
                bounds = np.cumsum([0, *(room[start:last] * POINT_BYTES)]).tolist()
                sums[start:last] = [crc32(content[a:b]) for a, b in pairwise(bounds)]
                start = last
        first = (np.cumsum(room) - room) * POINT_BYTES
        with atomic_path(path.with_suffix(".lists")) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack([length, room, first, sums], axis=1).astype(np.int64))
        return path

    def _sorted_run(self) -> _Run:
        members = self._members[: self._count]
        bounds = np.cumsum([0, *np.bincount(members, minlength=self.level.count)])
        return _Run(bounds, np.argsort(members, kind="stable"), self._codes, self._places)


@dataclass(frozen=True, slots=True)
class _Run:
    """Points in the order of their lists: list n has `order[bounds[n]:bounds[n + 1]]`, rows of `codes` and `places`."""

    bounds: Numbers
    order: Numbers | None
    codes: NDArray[np.uint8]
    places: Numbers

    def part(self, start: int, last: int) -> tuple[NDArray[np.uint8], Numbers]:
        """Return codes and places of the lists from `start` to the one before `last`."""
        rows = slice(*self.bounds[[start, last]].tolist())
        return (self.codes[rows], self.places[rows]) if self.order is None else self._take(self.order[rows])

    def to_disk(self) -> _Run:
        """Return the same points in temporary files, which vanish with what is returned."""
        if self.order is None:
            return self
        columns = []
        for column in (self.codes, self.places):
            with TemporaryFile() as file:
                for start in range(0, self.bounds[-1], WRITTEN_AT_ONCE):
                    file.write(column[self.order[start : start + WRITTEN_AT_ONCE]].data)
                file.flush()
                columns.append(np.memmap(file, column.dtype, "r", shape=(int(self.bounds[-1]), *column.shape[1:])))
        return _Run(self.bounds, None, *columns)

    def _take(self, rows: Numbers) -> tuple[NDArray[np.uint8], Numbers]:
        return self.codes[rows], self.places[rows]


def _join_runs(runs: Sequence[_Run], start: int, last: int) -> tuple[NDArray[np.uint8], Numbers]:
    """Return codes and places of the lists from `start` to the one before `last`; in a list, run after run."""
    if len(runs) == 1:
        return runs[0].part(start, last)
    parts = [run.part(start, last) for run in runs]
    numbers = np.arange(last - start, dtype=np.uint32)
    members = np.concatenate([np.repeat(numbers, np.diff(run.bounds[start : last + 1])) for run in runs])
    order = np.argsort(members, kind="stable")
    codes, places = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    return codes, places


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


def read_lists(path: Path, quantizer: PointQuantizer, record: Path | None = None) -> Any:
    """Map inverted lists of a quantizer into memory; those of a local file are checked by `ListChecks`.

    Raises `DamagedFileError` if a file is missing, or they do not fit.
    """
    record = record or path.with_suffix(".json")
    table = read_list_table(path, record)
    lists = quantizer.level(len(table)).new_lists()
    inverted: Any = faiss.OnDiskInvertedLists()
    inverted.nlist, inverted.code_size, inverted.read_only = len(table), lists.code_size, True
    inverted.lists.resize(len(table))
    places = np.ascontiguousarray(table[:, :3])
    ctypes.memmove(int(inverted.lists.data().this), places.ctypes.data, places.nbytes)  # three size_t each
    opened = checked_copy(path, record) if as_stored_path(path) else nullcontext(path)
    with damage_errors(path, None), opened as file:
        inverted.totsize = file.stat().st_size
        ends = table[:, 2] + table[:, 1] * POINT_BYTES
        if len(table) != lists.nlist or ends.max(initial=0) != inverted.totsize or (table[:, 0] > table[:, 1]).any():
            raise damage_error(path)
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
