"""Segments of an index of images: what a search opens, made when the images are indexed.

    INDEX/segments/segments.json   the current segments: the shards in each, and their points
    INDEX/segments/NAME.parquet    the images of a segment: id, shard, width and height
    INDEX/segments/NAME.npy        their descriptors, float16 [R, D]
    INDEX/segments/NAME.faiss      their points in inverted lists, as codes of 16 bytes

Segments never change. New shards make a new segment, which takes up those that are not much larger, so that there are
few. A segment counts as long as the index holds its shards as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.errors import InputError
from copytrace.index.image_index import ImageIndex
from copytrace.index.point_lists import (
    PointLists,
    add_points,
    codebook_digest,
    read_lists,
    shipped_quantizer,
    write_lists,
)
from copytrace.step import Step, StepRun
from copytrace.storage import (
    atomic_path,
    digest_of,
    local_copy,
    read_table,
    table_of_rows,
    write_json,
    write_table,
)

SEGMENTS = "segments.json"
LARGEST_SEGMENT = 1 << 27  # points; the lists of one have 3 GB
FINE_FROM = 1 << 24  # points from which on an index has fine lists
ABSORBED = 2  # a segment at most so many times as large as what is new is taken up by it

MOST_OPENED = 3  # indexes: references and noise, and one that is made

IMAGE_SCHEMA = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("width", pa.int32()), ("height", pa.int32())])


@dataclass(frozen=True, slots=True)
class Segment:
    """R images: their ids, their descriptors float16 [R, D], and lists of their points.

    `points.current` bool [R] tells which are still in the index.
    """

    ids: pa.LargeStringArray
    vectors: NDArray[np.float16]
    points: PointLists


_opened: dict[str, Sequence[Segment]] = {}
_OPEN_LOCK = Lock()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A segment as `segments.json` names it: how many points it has, in how many lists, and the state of its shards."""

    points: int
    lists: int
    shards: dict[int, str]

    def current(self, states: Mapping[int, str]) -> list[int]:
        """Return the shards that the index still holds as they were."""
        return [shard for shard, state in self.shards.items() if states.get(shard) == state]

    def size(self, states: Mapping[int, str]) -> float:
        return self.points * len(self.current(states)) / max(len(self.shards), 1)


def index_segments(root: Path) -> Path:
    """Bring the segments of the index at `root` up to date, and return their folder.

    Only shards that no segment holds are read, and those of the segments that the new one takes up.
    """
    index, folder = ImageIndex.open(root), root / "segments"
    states, listed = index.items.states, folder / SEGMENTS
    made_from = [codebook_digest(), sorted(states.items())]
    step = Step.of("index segments", listed, made_from=made_from, record=folder / "cost.json")
    if step.is_done():
        return folder
    # A segment more than half of which is gone is dropped, and what is left of it is written again.
    kept = {n: entry for n, entry in _read_entries(root).items() if 2 * len(entry.current(states)) > len(entry.shards)}
    new = sorted(states.keys() - {shard for entry in kept.values() for shard in entry.current(states)})
    sizes = {shard: index.point_count(shard) for shard in new}
    total = sum(sizes.values()) + sum(entry.size(states) for entry in kept.values())
    level = shipped_quantizer().fine if total >= FINE_FROM else shipped_quantizer().coarse
    for name in [name for name, entry in kept.items() if entry.lists != level.count]:
        sizes |= {shard: index.point_count(shard) for shard in kept.pop(name).current(states)}
    for name, entry in sorted(kept.items(), key=lambda item: item[1].size(states)):
        size, waiting = entry.size(states), sum(sizes.values())
        if sizes and size <= ABSORBED * waiting and size + waiting <= LARGEST_SEGMENT:
            sizes |= {shard: index.point_count(shard) for shard in kept.pop(name).current(states)}
    with step.run(sum(sizes.values()), "points") as work:
        entries = dict(kept)
        for shards in group_shards(dict(sorted(sizes.items())), LARGEST_SEGMENT):
            points = sum(sizes[shard] for shard in shards)
            entry = _Entry(points, level.count, {shard: states[shard] for shard in shards})
            entries[_write_segment(index, entry, work)] = entry
        _write_entries(root, entries)  # from now on they are the index's segments
    for path in folder.glob("*.*"):
        if path.stem not in {*entries, listed.stem, step.record.stem}:
            path.unlink(missing_ok=True)
    return folder


def open_segments(index: ImageIndex) -> Sequence[Segment]:
    """Open the segments of an index, once per process until it changes.

    Raises `InputError` if they do not hold all of its shards.
    """
    entries, states = _read_entries(index.root), index.items.states
    current = {name: tuple(entry.current(states)) for name, entry in entries.items()}
    if set(index.shards).difference(*current.values()):
        raise InputError(
            f"{index.root} lacks the segments that a search needs; make them with the command that made it: copytrace "
            f"index-images REFERENCES --out {index.root}. What is described stays"
        )
    state = digest_of(str(index.root), index.fingerprint, sorted(states.items()), sorted(entries))
    with _OPEN_LOCK:
        if state not in _opened:
            opened = [_open_segment(index, name, shards) for name, shards in sorted(current.items()) if shards]
            while len(_opened) >= MOST_OPENED:
                _opened.pop(next(iter(_opened)))
            _opened[state] = opened
        return _opened[state]


def ids_of(segments: Sequence[Segment]) -> pa.LargeStringArray:
    """Return the ids of the images of segments, in their order."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *(segment.ids for segment in segments)])


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


def _read_entries(root: Path) -> dict[str, _Entry]:
    path = root / "segments" / SEGMENTS
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["codebook"] != codebook_digest():
            return {}
        return {
            name: _Entry(
                entry["points"], entry["lists"], {int(shard): state for shard, state in entry["shards"].items()}
            )
            for name, entry in content["segments"].items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged; delete it and index again") from error


def _write_entries(root: Path, entries: Mapping[str, _Entry]) -> None:
    segments = {
        name: {"points": entry.points, "lists": entry.lists, "shards": entry.shards} for name, entry in entries.items()
    }
    write_json(root / "segments" / SEGMENTS, {"codebook": codebook_digest(), "segments": segments})


def _write_segment(index: ImageIndex, entry: _Entry, work: StepRun) -> str:
    name = digest_of(codebook_digest(), entry.lists, sorted(entry.shards.items()))
    path = index.root / "segments" / f"{name}.parquet"
    lists = shipped_quantizer().level(entry.lists).new_lists()
    rows: list[tuple[str, int, int, int]] = []
    vectors: list[NDArray[np.float16]] = []
    for shard in entry.shards:
        views = list(index.views(shard))
        add_points(lists, views, len(rows))
        rows += [(view.id, shard, view.points.width, view.points.height) for view in views]
        vectors.append(_vectors(index, shard, [view.id for view in views]))
        work.advance(sum(len(view.points) for view in views))
    write_lists(lists, path.with_suffix(".faiss"))
    with atomic_path(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(vectors))
    write_table(path, table_of_rows(rows, IMAGE_SCHEMA))
    return name


def _vectors(index: ImageIndex, shard: int, ids: Sequence[str]) -> NDArray[np.float16]:
    described = index.descriptors(shard)
    rows = {image: row for row, image in enumerate(described.ids)}
    vectors: NDArray[np.float16] = described.vectors[np.array([rows[image] for image in ids], int)].astype(np.float16)
    return vectors


def _open_segment(index: ImageIndex, name: str, shards: Sequence[int]) -> Segment:
    path = index.root / "segments" / f"{name}.parquet"
    images = read_table(path, schema=IMAGE_SCHEMA)
    ids = pa.concat_arrays([pa.array([], pa.large_string()), *images.column("id").cast(pa.large_string()).chunks])
    sides = np.stack([images.column(side).to_numpy() for side in ("width", "height")], axis=1).astype(np.float32)
    shard = images.column("shard").to_numpy()
    current = np.isin(shard, shards)
    held = np.bincount(index.items.shard_numbers, minlength=max(shards) + 1)
    with_gaps = [s for s, count in zip(*np.unique(shard, return_counts=True), strict=True) if held[s] < count]
    changed = np.flatnonzero(current & np.isin(shard, with_gaps))
    current[changed] = index.items.shards_of(ids.take(pa.array(changed)).to_pylist()) == shard[changed]
    with local_copy(path.with_suffix(".npy")) as file:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    return Segment(ids, vectors, PointLists(read_lists(path.with_suffix(".faiss")), sides, current))
