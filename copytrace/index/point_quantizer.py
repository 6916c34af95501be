"""Quantization of local points: the canonical form, the inverted lists and the code of each.

Lists and codes come from a codebook that does not depend on the references: neither the order in which an index grew
nor its segments decide what is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.errors import ConfigError, CopytraceError
from copytrace.features.points import DIMENSIONS
from copytrace.features.variants import CanonicalForm
from copytrace.runtime import WEIGHTS
from models.configs import ModelFileError
from models.point_codebook import PointCodebook, read_point_codebook

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

SHIPPED_CODEBOOK = WEIGHTS / "point_codebook.safetensors"
CODE_BYTES = 16
BLOCK = 32  # points that faiss compares at once
_INTERLEAVED = np.arange(16).reshape(2, 8).T.ravel()  # 0, 8, 1, 9, …
CELLS_SEARCHED = 8  # cells in which the lists nearest to a point are looked for
LISTS_DIVIDED = 16  # lists in which the fine ones nearest to a point are looked for
# Fine lists searched for a point, as multiples of the coarse ones, in indexes with few to many points. Among a million
# images (300 million points), 16 lists find as many of 170 copies as 32, and 8 as many of 120 as 16.
FINE_SEARCHED = (2.0, 1.0, 0.5)
FEW_POINTS = 1 << 26  # in fine lists, up to which most are searched; half of them up to twice as many points
# For a form that a point is less likely to have had, half of the fine lists are searched. Of 49,167 pairs of points of
# copies and their originals, 0.83 are found so in 16 lists, and 0.84 in all of them, which are 1.2 times as many.
UNLIKELY_SHARE = 2
CHANCE_RANK = 2  # the nearest point of the sample may show the same thing as the query
CHANCE_SHARE = 0.85  # of its squared distance; nearer points of references are rarely near by chance
LENGTHS = 256  # steps of a squared length
CODED_AT_ONCE = 1 << 13

# Squared distances float32 [Q, L] and numbers int64 [Q, L] of the lists nearest to points.
NearestLists = tuple[Floats, Numbers]


@dataclass(frozen=True, slots=True)
class PointCode:
    """A code of 16 bytes for the difference of a point from the center of its list.

    See `PointCodebook` for the `products` float32 [30, 16, 128] and the `lengths` float32 [2].
    """

    products: Floats
    lengths: Floats

    def encode(self, points: Floats, centers: Floats) -> NDArray[np.uint8]:
        """Return the codes uint8 [N, 16] of points float32 [N, 128], given the center of each one's list."""
        codes = np.zeros((len(points), CODE_BYTES), np.uint8)
        for start in range(0, len(points), CODED_AT_ONCE):
            part = slice(start, start + CODED_AT_ONCE)
            chosen, coded = self.nearest(points[part] - centers[part])
            coded += centers[part]
            codes[part, :-1] = chosen[:, ::2] | chosen[:, 1::2] << 4
            codes[part, -1] = self.length_code(np.einsum("ij,ij->i", coded, coded))
        return codes

    def length_code(self, squared: Floats) -> NDArray[np.uint8]:
        """Return the last byte of the codes of points whose coded sums have these squared lengths, uint8 [N]."""
        number = np.clip(np.rint((squared - self.lengths[0]) / self._step), 0, LENGTHS - 1)
        step: NDArray[np.uint8] = number.astype(np.uint8)
        return np.asarray(step >> 4 | step << 4, np.uint8)  # the greater half comes first

    def nearest(self, differences: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """Return the nearest vector of each product, uint8 [N, 30], and their sum, float32 [N, 128]."""
        flat = self.products.reshape(-1, DIMENSIONS)
        distance = (flat**2).sum(axis=1) - 2 * (differences @ flat.T)
        chosen = distance.reshape(len(differences), len(self.products), -1).argmin(axis=2)
        coded = np.zeros_like(differences)
        for number, vectors in enumerate(self.products):
            coded += vectors[chosen[:, number]]
        return chosen.astype(np.uint8), coded

    def new_lists(self, centers: Any, count: int) -> Any:
        """Return an index of faiss of `count` empty inverted lists with this code, which take no points, only codes.

        Distances to a point are, but for its own squared length, the squared length of the coded sum less twice its
        product with the point: the same few sums serve all lists.
        """
        kind = faiss.AdditiveQuantizer.ST_norm_lsq2x4
        lists = faiss.IndexIVFLocalSearchQuantizerFastScan(
            centers, DIMENSIONS, count, len(self.products), 4, faiss.METRIC_L2, kind
        )
        faiss.copy_array_to_vector(np.ascontiguousarray(self.products).ravel(), lists.lsq.codebooks)
        steps = np.arange(16, dtype=np.float32) * self._step
        tables = np.concatenate([self.lengths[0] + 16 * steps, steps]).astype(np.float32)
        faiss.copy_array_to_vector(tables, lists.lsq.norm_tabs)
        lists.lsq.is_trained = lists.is_trained = lists.by_residual = True
        return lists

    @property
    def _step(self) -> np.float32:
        return np.float32((self.lengths[1] - self.lengths[0]) / (LENGTHS - 1))


@dataclass(frozen=True, slots=True)
class ListLevel:
    """Inverted lists of one fineness: `centers` finds those nearest to points, and `code` codes points in them.

    `table` has the centers in their order, for what needs no search of them.
    """

    centers: Any
    table: Any
    code: PointCode

    @classmethod
    def of(cls, lists: Floats, code: PointCode, parents: Any, parents_searched: int) -> ListLevel:
        """Return a level of `lists` float32 [L, 128], as many of which lie in each of `parents`, one after another.

        The nearest lists are looked for in the `parents_searched` nearest parents.
        """
        centers: Any = faiss.IndexIVFFlat(parents, DIMENSIONS, parents.ntotal)
        centers.is_trained = True
        centers.nprobe = min(parents_searched, parents.ntotal)
        numbers = np.arange(len(lists), dtype=np.int64)
        inside = numbers // (len(lists) // parents.ntotal)
        centers.add_core(len(lists), *(faiss.swig_ptr(np.ascontiguousarray(each)) for each in (lists, numbers, inside)))
        table: Any = faiss.IndexFlatL2(DIMENSIONS)
        table.add(np.ascontiguousarray(lists))
        return cls(centers, table, code)

    @property
    def count(self) -> int:
        """The number of lists."""
        return int(self.table.ntotal)

    def new_lists(self) -> Any:
        """Return empty inverted lists; see `PointCode.new_lists`."""
        return self.code.new_lists(self.table, self.count)

    def encode(self, points: Floats) -> tuple[Numbers, NDArray[np.uint8]]:
        """Return the lists int64 [N] and the codes uint8 [N, 16] of canonical points float32 [N, 128]."""
        members = self.nearest_lists(points, 1)[1][:, 0]
        return members, self.code.encode(points, self.table.reconstruct_batch(members))

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


class PointQuantizer:
    """The lists of a codebook, in which points are placed, and a sample of points that belong to no library."""

    def __init__(self, codebook: PointCodebook) -> None:
        self.codebook = codebook
        self.canonical_form = CanonicalForm(codebook.axes, codebook.margins)
        cells: Any = faiss.IndexFlatL2(DIMENSIONS)
        cells.add(codebook.cells)
        code = PointCode(codebook.products, codebook.lengths)
        self.coarse = ListLevel.of(codebook.lists, code, cells, CELLS_SEARCHED)

    @cached_property
    def fine(self) -> ListLevel:
        """The lists of large indexes."""
        code = PointCode(self.codebook.fine_products, self.codebook.fine_lengths)
        return ListLevel.of(self.codebook.fine_lists.astype(np.float32), code, self.coarse.centers, LISTS_DIVIDED)

    def level(self, count: int) -> ListLevel:
        """Return the level that has `count` lists."""
        return self.coarse if count == self.coarse.count else self.fine

    def nearest_lists(self, points: Floats, lists_searched: int, sizes: Mapping[int, int]) -> dict[int, NearestLists]:
        """Return the lists nearest to points float32 [Q, 128], by the count of lists of each level.

        `sizes` tells how many points there are in the lists of each level. Of coarse lists, the `lists_searched`
        nearest ones are returned; of fine ones, so many as `fine_lists_searched` says.
        """
        larger = {count: size for count, size in sizes.items() if count != self.coarse.count}
        fine = {count: fine_lists_searched(size, lists_searched) for count, size in larger.items()}
        coarse = self.coarse.nearest_lists(points, max(LISTS_DIVIDED, lists_searched) if fine else lists_searched)
        found = {count: self.fine.nearest_lists(points, searched, coarse) for count, searched in fine.items()}
        return found | {self.coarse.count: first_lists(coarse, lists_searched)}

    def lists_if_unlikely(self, nearest: NearestLists, count: int) -> NearestLists:
        """Return which of the nearest of `count` lists are searched for forms that points are less likely to have."""
        most = nearest[1].shape[1]
        return first_lists(nearest, most if count == self.coarse.count else -(-most // UNLIKELY_SHARE))

    def chance_distance(self, points: Floats) -> Floats:
        """Return the squared distance within which a point is hardly near each canonical point by chance, float32 [Q].

        It is a share of the distance of the second nearest point of the sample.
        """
        nowhere = np.zeros((len(points), 1), np.float32), np.zeros((len(points), 1), np.int64)
        distance = self._sample.search_preassigned(points, CHANCE_RANK, nowhere[1], nowhere[0])[0]
        found: Floats = CHANCE_SHARE * (distance[:, -1] + (points**2).sum(axis=1))
        return found

    @cached_property
    def _sample(self) -> Any:
        book = self.codebook
        center: Any = faiss.IndexFlatL2(DIMENSIONS)
        center.add(book.sample_lists)
        lists = PointCode(book.sample_products, book.sample_lengths).new_lists(center, 1)
        inverted, packed = faiss.downcast_InvertedLists(lists.invlists), pack_codes(book.sample_codes)
        numbers = np.arange(len(book.sample_codes), dtype=np.int64)
        inverted.add_entries(0, len(numbers), faiss.swig_ptr(numbers), faiss.swig_ptr(packed))
        lists.ntotal, lists.nprobe = len(numbers), 1
        return lists


def pack_codes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes uint8 [N, 16] in blocks of 32, in the order in which faiss compares them, uint8 [⌈N / 32⌉, 512].

    Two products at a time, a block has the 4 bits of all its points: those of point n and of point n + 16 in one byte.
    """
    blocks = -(-len(codes) // BLOCK)
    padded = np.zeros((blocks * BLOCK, CODE_BYTES), np.uint8)
    padded[: len(codes)] = codes
    pairs = padded.reshape(blocks, BLOCK, CODE_BYTES).transpose(0, 2, 1)
    halves = np.stack([pairs & 15, pairs >> 4], axis=2)  # of each two products, [blocks, 16, 2, 32]
    packed: NDArray[np.uint8] = halves[..., _INTERLEAVED] | halves[..., _INTERLEAVED + BLOCK // 2] << 4
    return packed.reshape(blocks, BLOCK * CODE_BYTES)


def fine_lists_searched(size: int, lists_searched: int) -> int:
    """Return how many fine lists are searched instead of so many coarse ones, given how many points they hold."""
    doublings = sum(size > FEW_POINTS << step for step in range(len(FINE_SEARCHED) - 1))
    return max(1, int(FINE_SEARCHED[doublings] * lists_searched))


def first_lists(nearest: NearestLists, count: int) -> NearestLists:
    """Return the `count` nearest of the lists nearest to points."""
    return np.ascontiguousarray(nearest[0][:, :count]), np.ascontiguousarray(nearest[1][:, :count])


@lru_cache(maxsize=1)
def shipped_quantizer() -> PointQuantizer:
    """Return the quantizer of the codebook that ships."""
    try:
        return PointQuantizer(read_point_codebook(SHIPPED_CODEBOOK))
    except ModelFileError as error:
        raise ConfigError(f"{error}; install copytrace again") from error
