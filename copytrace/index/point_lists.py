"""Inverted lists of local points: a point is found among those of the few lists that are nearest to it.

Lists and codes come from a codebook that does not depend on the references: neither the order in which an index grew
nor its segments decide what is found.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.errors import ConfigError, CopytraceError, InputError
from copytrace.features.points import DIMENSIONS
from copytrace.index.shard_files import View
from copytrace.runtime import WEIGHTS
from copytrace.storage import atomic_path, digest_of_file, local_copy
from models.configs import ModelFileError
from models.point_codebook import PointCodebook, read_point_codebook

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

SHIPPED = WEIGHTS / "point_codebook.safetensors"
CELLS_SEARCHED = 8  # cells in which the lists nearest to a point are looked for
LISTS_DIVIDED = 16  # lists in which the fine ones nearest to a point are looked for
FINE_SEARCHED = 2  # fine lists searched instead of a coarse one; they hold an eighth of its points
CHANCE_RANK = 2  # the nearest point of the sample may show the same thing as the query
POINTS_AT_ONCE = 1 << 18

# A point's place in faiss's 63 bits: image, x, y, scale, angle.
_BITS = {"x": 10, "y": 10, "scale": 10, "angle": 9}
_SMALLEST_OCTAVE, _OCTAVES = -12.0, 16.0  # of the scale, in short sides


@dataclass(frozen=True, slots=True)
class FoundPoints:
    """The K reference points nearest to each of Q query points, nearest first.

    `distance` float32 [Q, K] is squared. `image` int64 [Q, K] is the number of the point's image; −1, and an infinite
    distance, if there is no further point. `geometry` float32 [Q, K, 4] has x, y, scale and angle, in short sides of
    the reference. `chance` float32 [Q] is the squared distance at which an unrelated point would be found.
    """

    distance: Floats
    image: Numbers
    geometry: Floats
    chance: Floats


@dataclass(frozen=True, slots=True)
class ListLevel:
    """Inverted lists of one fineness: `centers` finds those nearest to points, and `products` code points in them.

    `table` has the centers in their order, for what needs no search of them.
    """

    count: int
    centers: Any
    table: Any
    products: Floats

    @classmethod
    def of(cls, lists: Floats, products: Floats, parents: Any, parents_searched: int) -> ListLevel:
        """Return a level of `lists` float32 [L, 128], as many of which lie in each of `parents`, one after another.

        The nearest lists are looked for in the `parents_searched` nearest parents.
        """
        centers: Any = faiss.IndexIVFFlat(parents, DIMENSIONS, parents.ntotal)
        centers.is_trained = True
        centers.nprobe = min(parents_searched, parents.ntotal)
        numbers = np.arange(len(lists), dtype=np.int64)
        inside = numbers // (len(lists) // parents.ntotal)
        centers.add_core(len(lists), *(faiss.swig_ptr(np.ascontiguousarray(each)) for each in (lists, numbers, inside)))
        centers.make_direct_map()
        table: Any = faiss.IndexFlatL2(DIMENSIONS)
        table.add(np.ascontiguousarray(lists))
        return cls(len(lists), centers, table, products)

    def new_lists(self, *, to_add: bool = True) -> Any:
        """Return empty inverted lists; without `to_add`, they are searched faster and take no points, only codes."""
        quantizer = self.centers if to_add else self.table
        lists = faiss.IndexIVFPQFastScan(quantizer, DIMENSIONS, self.count, len(self.products), 4)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.products).ravel(), lists.pq.centroids)
        lists.by_residual = True  # not faiss's default: codes of differences from the center are more exact
        lists.use_precomputed_table = -1  # a table of all lists would take more than it saves
        lists.is_trained = True
        return lists

    def nearest_lists(self, points: Floats, count: int, parents: NearestLists | None = None) -> NearestLists:
        """Return the lists nearest to each of Q points; `parents` are the nearest parents, if they are known."""
        count = min(count, self.count)
        found: NearestLists
        if parents is None:
            found = self.centers.search(points, count)
        else:
            self.centers.nprobe = parents[1].shape[1]
            found = self.centers.search_preassigned(points, count, parents[1], parents[0])
        return found


# Squared distances float32 [Q, L] and numbers int64 [Q, L] of the lists nearest to points.
NearestLists = tuple[Floats, Numbers]


class PointQuantizer:
    """The lists of a codebook, in which points are placed, and a sample of points that belong to no library."""

    def __init__(self, codebook: PointCodebook) -> None:
        self.codebook = codebook
        cells: Any = faiss.IndexFlatL2(DIMENSIONS)
        cells.add(codebook.cells)
        self._cells = cells
        self.coarse = ListLevel.of(codebook.lists, codebook.products, cells, CELLS_SEARCHED)

    @cached_property
    def fine(self) -> ListLevel:
        """The lists of large indexes."""
        return ListLevel.of(self.codebook.fine_lists, self.codebook.fine_products, self.coarse.centers, LISTS_DIVIDED)

    def level(self, count: int) -> ListLevel:
        """Return the level that has `count` lists."""
        return self.coarse if count == self.coarse.count else self.fine

    def nearest_lists(self, points: Floats, lists_searched: int, counts: Collection[int]) -> dict[int, NearestLists]:
        """Return the lists nearest to points float32 [Q, 128], by the count of lists of each level in `counts`.

        Of the coarse lists, which are always there, they are `lists_searched`; of fine ones, which hold fewer points,
        `FINE_SEARCHED` times as many.
        """
        fine = [count for count in counts if count != self.coarse.count]
        coarse = self.coarse.nearest_lists(points, max(LISTS_DIVIDED, lists_searched) if fine else lists_searched)
        found = {count: self.fine.nearest_lists(points, FINE_SEARCHED * lists_searched, coarse) for count in fine}
        return found | {self.coarse.count: _first(coarse, lists_searched)}

    def chance_distance(self, points: Floats, nearest: NearestLists) -> Floats:
        """Return the squared distance of each point to the second nearest point of the sample, float32 [Q].

        Only points in the `nearest` coarse lists are looked at; ∞ if there are none.
        """
        self._sample.nprobe = nearest[1].shape[1]
        distance, numbers = self._sample.search_preassigned(points, CHANCE_RANK, nearest[1], nearest[0])
        return np.where(numbers[:, -1] < 0, np.float32(np.inf), distance[:, -1])

    @cached_property
    def _sample(self) -> Any:
        lists = self.coarse.new_lists(to_add=False)
        codes, numbers = self.codebook.sample_codes, np.arange(len(self.codebook.sample_codes), dtype=np.int64)
        add_codes(lists, self.codebook.sample_lists, codes, numbers)
        return lists


def _first(nearest: NearestLists, count: int) -> NearestLists:
    return np.ascontiguousarray(nearest[0][:, :count]), np.ascontiguousarray(nearest[1][:, :count])


class ListedPoints(NamedTuple):
    """Points as in `FoundPoints`, of one set of lists."""

    distance: Floats
    image: Numbers
    geometry: Floats


@dataclass(frozen=True, slots=True)
class PointLists:
    """Inverted lists of the points of R images.

    `sides` float32 [R, 2] are their width and height; `current` bool [R] tells which are still in the index.
    """

    lists: Any
    sides: Floats
    current: NDArray[np.bool_]

    def search(self, points: Floats, nearest: NearestLists, neighbours: int, first: int) -> ListedPoints:
        """Return the points in the `nearest` lists that are nearest to `points` float32 [Q, 128].

        `first` is the number of the first image.
        """
        self.lists.nprobe = nearest[1].shape[1]
        distance, packed = self.lists.search_preassigned(points, neighbours, nearest[1], nearest[0])
        image, geometry = _unpack(packed, self.sides)
        found = (packed >= 0) & (self.current[image] if len(self.current) else False)
        return ListedPoints(np.where(found, distance, np.float32(np.inf)), np.where(found, first + image, -1), geometry)


def add_points(lists: Any, views: Sequence[View], first: int = 0) -> None:
    """Add the points of views to inverted lists; `first` is the number of the first view among their images."""
    for start, part in _batches(views):
        descriptors = np.concatenate([view.points.descriptor for view in part]).astype(np.float32)
        lists.add_with_ids(descriptors, _pack(part, first + start))


def add_codes(lists: Any, members: Numbers, codes: NDArray[np.uint8], numbers: Numbers) -> None:
    """Add N points to inverted lists by their codes, uint8 [N, 16]; `members` int64 [N] are their lists.

    `numbers` int64 [N] are what a search returns.
    """
    inverted, packer = faiss.downcast_InvertedLists(lists.invlists), lists.get_CodePacker()
    order = np.argsort(members, kind="stable")
    bounds = np.searchsorted(members[order], np.arange(lists.nlist + 1))
    codes, numbers = codes[order], np.ascontiguousarray(numbers[order])
    for member in np.flatnonzero(np.diff(bounds)).tolist():
        part = slice(bounds[member], bounds[member + 1])
        count = int(part.stop - part.start)
        flat = np.zeros((-(-count // packer.nvec) * packer.nvec, codes.shape[1]), np.uint8)
        flat[:count] = codes[part]
        packed = np.empty_like(flat)
        for start in range(0, len(flat), packer.nvec):
            packer.pack_all(faiss.swig_ptr(flat[start:]), faiss.swig_ptr(packed[start:]))
        inverted.add_entries(member, count, faiss.swig_ptr(numbers[part]), faiss.swig_ptr(packed))
    lists.ntotal += len(codes)


def write_lists(lists: Any, path: Path) -> Path:
    """Write inverted lists, without the codebook, so that a search can map them into memory, and return `path`.

    The codes of each list, in whole blocks, and the numbers of its points follow one another in `path`; an array beside
    it, `.lists`, has the length of each list, its room in points, and its first byte, int64 [L, 3].
    """
    inverted = faiss.downcast_InvertedLists(lists.invlists)
    block, code_size = lists.get_CodePacker().nvec, lists.code_size
    length = np.array([inverted.list_size(number) for number in range(lists.nlist)], np.int64)
    room = -(-length // block) * block
    first = np.cumsum(room * (code_size + 8)) - room * (code_size + 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number in np.flatnonzero(length).tolist():
            file.write(faiss.rev_swig_ptr(inverted.get_codes(number), int(room[number]) * code_size).data)
            numbers = np.zeros(room[number], np.int64)
            numbers[: length[number]] = faiss.rev_swig_ptr(inverted.get_ids(number), int(length[number]))
            file.write(numbers.data)
    with atomic_path(path.with_suffix(".lists")) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack([length, room, first], axis=1))
    return path


def read_lists(path: Path) -> Any:
    """Map inverted lists that `write_lists` wrote into memory. Raises `InputError` if the files do not fit."""
    with local_copy(path.with_suffix(".lists")) as file:
        table = np.ascontiguousarray(np.load(file, allow_pickle=False), np.int64)
    lists = shipped_quantizer().level(len(table)).new_lists(to_add=False)
    inverted: Any = faiss.OnDiskInvertedLists()
    inverted.nlist, inverted.code_size, inverted.read_only = len(table), lists.code_size, True
    inverted.lists.resize(len(table))
    ctypes.memmove(int(inverted.lists.data().this), table.ctypes.data, table.nbytes)  # three size_t each
    with local_copy(path) as file:
        inverted.totsize = file.stat().st_size
        ends = table[:, 2] + table[:, 1] * (lists.code_size + 8)
        if len(table) != lists.nlist or ends.max(initial=0) != inverted.totsize or (table[:, 0] > table[:, 1]).any():
            raise InputError(f"{path} is damaged; delete {path.parent} and index again")
        inverted.filename = str(file)
        if inverted.totsize:
            inverted.do_mmap()
    lists.replace_invlists(inverted, True)
    inverted.this.disown()
    lists.ntotal = int(table[:, 0].sum())
    return lists


@lru_cache(maxsize=1)
def shipped_quantizer() -> PointQuantizer:
    """Return the quantizer of the codebook that ships."""
    try:
        return PointQuantizer(read_point_codebook(SHIPPED))
    except ModelFileError as error:
        raise ConfigError(str(error)) from error


@lru_cache(maxsize=1)
def codebook_digest() -> str:
    """Return the digest of the codebook that ships."""
    return digest_of_file(SHIPPED)


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


def _pack(views: Sequence[View], first: int) -> Numbers:
    """Return the places of all points of views as int64 [N]; `first` is the number of the first view."""
    geometry = np.concatenate([view.points.relative_geometry() for view in views])
    counts = [len(view.points) for view in views]
    sides = np.array([(view.points.width, view.points.height) for view in views], np.float64)
    extent = np.repeat(sides / sides.min(axis=1, keepdims=True), counts, axis=0)
    octave = (np.log2(np.maximum(geometry[:, 2], 2.0**_SMALLEST_OCTAVE)) - _SMALLEST_OCTAVE) / _OCTAVES
    turn = geometry[:, 3] / (2 * np.pi) % 1
    shares = {"x": geometry[:, 0] / extent[:, 0], "y": geometry[:, 1] / extent[:, 1], "scale": octave, "angle": turn}
    packed = np.repeat(np.arange(first, first + len(views), dtype=np.int64), counts)
    for name, bits in _BITS.items():
        steps = np.floor(shares[name] * (1 << bits)).astype(np.int64)
        packed = packed << bits | np.clip(steps, 0, (1 << bits) - 1)
    return packed


def _unpack(packed: Numbers, sides: Floats) -> tuple[Numbers, Floats]:
    """Return image numbers int64 and geometry float32 [..., 4] of packed places; −1 stands for no point."""
    rest, shares = packed.copy(), {}
    for name, bits in reversed(_BITS.items()):
        shares[name] = ((rest & ((1 << bits) - 1)) + 0.5) / (1 << bits)
        rest >>= bits
    extent = sides / sides.min(axis=1, keepdims=True)
    extent = extent[np.maximum(rest, 0)] if len(sides) else np.ones((*packed.shape, 2), np.float32)
    scale = 2.0 ** (shares["scale"] * _OCTAVES + _SMALLEST_OCTAVE)
    columns = (shares["x"] * extent[..., 0], shares["y"] * extent[..., 1], scale, shares["angle"] * 2 * np.pi)
    return rest, np.stack(columns, axis=-1).astype(np.float32)
