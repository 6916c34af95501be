"""Inverted lists of an index's reference points, in which local recall searches; they are made when it is indexed.

    INDEX/point_lists/segments.json     the current segments
    INDEX/point_lists/NAME.faiss        a segment: the points of some shards as codes of 16 bytes, by list
    INDEX/point_lists/NAME.parquet      its images: id, shard, and how wide and high they are

Segments never change. New shards make a new segment, which takes up those that are not much larger, so that there are
few. Lists and codes come from a codebook that does not depend on the references: neither the order in which an index
grew nor its segments decide what is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.errors import ConfigError, CopytraceError, InputError
from copytrace.features.points import DIMENSIONS
from copytrace.index.image_index import ImageIndex
from copytrace.index.media_index import receipt_path
from copytrace.index.shard_files import View
from copytrace.runtime import WEIGHTS
from copytrace.step import Step, StepRun, read_record
from copytrace.storage import (
    atomic_path,
    digest_of,
    digest_of_file,
    local_copy,
    read_table,
    table_of_rows,
    write_json,
    write_table,
)
from models.configs import ModelFileError
from models.point_codebook import PointCodebook, read_point_codebook

try:
    import faiss
except ImportError as error:  # faiss is an extra: the CPU and GPU builds exclude one another
    raise CopytraceError("faiss is not installed; pip install 'copytrace[cpu]', or [gpu] beside CUDA") from error

SEGMENTS = "segments.json"
SHIPPED = WEIGHTS / "point_codebook.safetensors"
CELLS_SEARCHED = 8  # cells in which the lists nearest to a point are looked for
CHANCE_RANK = 2  # the nearest point of the sample may show the same thing as the query
POINTS_AT_ONCE = 1 << 18
LARGEST_SEGMENT = 1 << 27  # points; the lists of one have 3 GB
ABSORBED = 2  # a segment at most so many times as large as what is new is taken up by it

IMAGE_SCHEMA = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("width", pa.int32()), ("height", pa.int32())])

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


class PointQuantizer:
    """The lists of a codebook, in which points are placed, and a sample of points that belong to no library."""

    def __init__(self, codebook: PointCodebook) -> None:
        self.codebook = codebook
        self._cells = faiss.IndexFlatL2(DIMENSIONS)
        self._cells.add(codebook.cells)
        # An inverted file of the centers finds the nearest ones among those of a few cells.
        self.lists: Any = faiss.IndexIVFFlat(self._cells, DIMENSIONS, len(codebook.cells))
        self.lists.is_trained = True
        self.lists.nprobe = min(CELLS_SEARCHED, len(codebook.cells))
        per_cell = len(codebook.lists) // len(codebook.cells)
        numbers = np.arange(len(codebook.lists), dtype=np.int64)
        cells, centers = numbers // per_cell, np.ascontiguousarray(codebook.lists)
        pointers = (faiss.swig_ptr(array) for array in (centers, numbers, cells))
        self.lists.add_core(len(numbers), *pointers)
        self.lists.make_direct_map()
        self._sample = self.new_lists()
        self._sample.add(_decode(codebook))

    def new_lists(self) -> Any:
        """Return empty inverted lists."""
        products = self.codebook.products
        lists = faiss.IndexIVFPQFastScan(self.lists, DIMENSIONS, len(self.codebook.lists), len(products), 4)
        faiss.copy_array_to_vector(np.ascontiguousarray(products).ravel(), lists.pq.centroids)
        lists.by_residual = True  # not faiss's default: codes of differences from the center are more exact
        lists.use_precomputed_table = -1  # a table of all lists would take more than it saves
        lists.is_trained = True
        return lists

    def nearest_lists(self, points: Floats, count: int) -> tuple[Floats, Numbers]:
        """Return the squared distances float32 [Q, L] and the numbers int64 [Q, L] of the lists nearest to points."""
        found: tuple[Floats, Numbers] = self.lists.search(points, min(count, len(self.codebook.lists)))
        return found

    def chance_distance(self, points: Floats, nearest: tuple[Floats, Numbers]) -> Floats:
        """Return the squared distance of each point to the second nearest point of the sample, float32 [Q].

        As of the references, only points in the `nearest` lists are looked at; ∞ if there are none.
        """
        self._sample.nprobe = nearest[1].shape[1]
        distance, numbers = self._sample.search_preassigned(points, CHANCE_RANK, nearest[1], nearest[0])
        return np.where(numbers[:, -1] < 0, np.float32(np.inf), distance[:, -1])


class ListedPoints(NamedTuple):
    """Points as in `FoundPoints`, of one segment."""

    distance: Floats
    image: Numbers
    geometry: Floats


@dataclass(frozen=True, slots=True)
class PointSegment:
    """A segment: inverted lists of the points of R images.

    `sides` float32 [R, 2] are their width and height; `current` bool [R] tells which are still in the index.
    """

    lists: Any
    ids: tuple[str, ...]
    sides: Floats
    current: NDArray[np.bool_]

    def search(self, points: Floats, nearest: tuple[Floats, Numbers], neighbours: int, first: int) -> ListedPoints:
        """Return the points in the `nearest` lists that are nearest to `points` float32 [Q, 128].

        `first` is the number of the first image of the segment.
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


def index_points(root: Path) -> Path:
    """Bring the lists of the index at `root` up to date, and return their folder.

    Only shards that no segment holds are read, and those of the segments that the new one takes up.
    """
    index, folder = ImageIndex.open(root), root / "point_lists"
    states = {shard: _shard_state(root, shard) for shard in index.shards}
    listed = folder / SEGMENTS
    step = Step.of("index points", listed, made_from=[sorted(states.items())], record=folder / "cost.json")
    if step.is_done():
        return folder
    sizes = {shard: index.point_count(shard) for shard in states}
    before, kept = _read_segments(root), {}
    for name, there in before.items():
        current = _current_shards(index, there)
        if 2 * len(current) > len(there):  # otherwise more than half of it is gone
            kept[name] = current
    new = sorted(states.keys() - {shard for shards in kept.values() for shard in shards})
    for name in sorted(kept, key=lambda name: sum(sizes[shard] for shard in kept[name])):
        size, waiting = (sum(sizes[shard] for shard in shards) for shards in (kept[name], new))
        if new and size <= ABSORBED * waiting and size + waiting <= LARGEST_SEGMENT:
            new = sorted([*new, *kept.pop(name)])
    with step.run(sum(sizes[shard] for shard in new), "points") as work:
        segments = {name: before[name] for name in kept}
        for shards in group_shards({shard: sizes[shard] for shard in new}, LARGEST_SEGMENT):
            part = {shard: states[shard] for shard in shards}
            segments[_write_segment(index, part, work)] = part
        write_json(listed, segments)  # from now on they are the index's segments
    for path in folder.glob("*.*"):
        if path.stem not in {*segments, listed.stem, step.record.stem}:
            path.unlink(missing_ok=True)
    return folder


def open_segments(index: ImageIndex) -> list[PointSegment]:
    """Open the lists of an index. Raises `InputError` if they do not hold all of its shards."""
    segments = _read_segments(index.root)
    current = {name: _current_shards(index, states) for name, states in segments.items()}
    if set(index.shards).difference(*current.values()):
        raise InputError(
            f"{index.root} lacks lists of its points; make them with the command that made it: copytrace index-images "
            f"REFERENCES --out {index.root}. What is described stays"
        )
    return [_open_segment(index, name, current[name]) for name in sorted(segments) if current[name]]


def group_shards(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Yield runs of shards, in order, that together have at most `most` points, or one shard each that has more."""
    run: list[int] = []
    points = 0
    for shard, size in sizes.items():
        if run and points + size > most:
            yield run
            run, points = [], 0
        run.append(shard)
        points += size
    if run:
        yield run


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


def _read_segments(root: Path) -> dict[str, dict[int, str]]:
    """Return the segments of the index at `root`: the fingerprint of each shard in them, when they were made."""
    try:
        content = json.loads((root / "point_lists" / SEGMENTS).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise InputError(f"{root / 'point_lists' / SEGMENTS} is damaged; delete it and index again") from error
    return {name: {int(shard): state for shard, state in states.items()} for name, states in content.items()}


def _current_shards(index: ImageIndex, states: dict[int, str]) -> list[int]:
    """Return the shards of a segment that the index still holds as they were."""
    held = set(index.shards)
    return [shard for shard, state in states.items() if shard in held and _shard_state(index.root, shard) == state]


def _shard_state(root: Path, shard: int) -> str:
    return digest_of(codebook_digest(), read_record(receipt_path(root, shard)).get("fingerprint"))


def _write_segment(index: ImageIndex, states: dict[int, str], work: StepRun) -> str:
    name = digest_of(sorted(states.items()))
    path = index.root / "point_lists" / f"{name}.faiss"
    lists = shipped_quantizer().new_lists()
    rows: list[tuple[str, int, int, int]] = []
    for shard in states:
        views = list(index.views(shard))
        add_points(lists, views, len(rows))
        work.advance(sum(len(view.points) for view in views))
        rows += [(view.id, shard, view.points.width, view.points.height) for view in views]
    lists.quantizer = _EMPTY  # the codebook has the centers; they are not stored again in each segment
    with atomic_path(path) as temporary:
        faiss.write_index(lists, str(temporary))
    write_table(path.with_suffix(".parquet"), table_of_rows(rows, IMAGE_SCHEMA))
    return name


_EMPTY = faiss.IndexFlatL2(DIMENSIONS)


def _open_segment(index: ImageIndex, name: str, current: Sequence[int]) -> PointSegment:
    path = index.root / "point_lists" / f"{name}.faiss"
    lists: Any
    with local_copy(path) as file:
        lists = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if file == path else 0)
    lists.own_fields = False
    lists.quantizer = shipped_quantizer().lists
    lists.use_precomputed_table = -1
    images = read_table(path.with_suffix(".parquet"), schema=IMAGE_SCHEMA)
    ids, shards = images.column("id").to_pylist(), images.column("shard").to_pylist()
    sides = np.stack([images.column(side).to_numpy() for side in ("width", "height")], axis=1).astype(np.float32)
    held = set(current)
    there = [shard in held and index.is_current(image, shard) for image, shard in zip(ids, shards, strict=True)]
    return PointSegment(lists, tuple(ids), sides, np.array(there, bool))


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


def _decode(codebook: PointCodebook) -> Floats:
    """Return the sample of a codebook as points, float32 [S, 128]."""
    halves = np.stack([codebook.sample_codes & 15, codebook.sample_codes >> 4], axis=2)
    numbers = halves.reshape(len(halves), len(codebook.products))
    parts = codebook.products[np.arange(len(codebook.products)), numbers]
    return np.asarray(codebook.lists[codebook.sample_lists] + parts.reshape(len(parts), DIMENSIONS), np.float32)
