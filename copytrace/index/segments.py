"""Segments of an index: what a search opens, made when media are indexed. What they hold is said by `SegmentContent`.

    INDEX/segments/segments.json   the current segments: the shards in each, its size, and checksums of its files
    INDEX/segments/NAME.*          the files of a segment; see `image_segments` and `video_segments`

Segments never change. New shards make a new segment, which takes up those that are not much larger, so that there are
few. A segment counts as long as the index holds its shards as they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.checked_files import checksums_by, read_record, write_record
from copytrace.checksums import collect_checksums, damage_error
from copytrace.errors import DamagedFileError, InputError
from copytrace.index.media_index import MediaIndex
from copytrace.lease import find_holder
from copytrace.step import Step, StepRun
from copytrace.storage import digest_of, remove_file, time_of_writing

SEGMENTS, COST = "segments.json", "cost.json"
ABSORBED = 2  # a segment at most so many times as large as what is new is taken up by it
MOST_OPENED = 3  # indexes: references and noise, and one that is made

S = TypeVar("S")


class SegmentContent(ABC, Generic[S]):
    """What the segments of an index hold: how it is measured, written and opened.

    `unit` names what is counted, and a segment holds at most `largest` of them, or one shard. `made_by` changes with
    anything but the shards that decides the files.
    """

    unit: ClassVar[str]
    largest: ClassVar[int]

    def __init__(self, index: MediaIndex) -> None:
        self.index = index

    @property
    @abstractmethod
    def made_by(self) -> str:
        """See the class."""

    @abstractmethod
    def size(self, shard: int) -> int:
        """Return the number of units in a shard."""

    def form(self, total: float) -> str:
        """Return how the segments of an index with so many units are made; those of another form are made again."""
        return ""

    @abstractmethod
    def write(self, path: Path, shards: Sequence[int], form: str, work: StepRun) -> None:
        """Write the files of a segment of these shards in a form; `path` is theirs without a suffix."""

    @abstractmethod
    def open(self, path: Path, shards: Sequence[int]) -> S:
        """Open the files of a segment, of whose shards these are still as they were."""

    def command(self) -> str:
        """Return the command that makes the segments of an index which lacks them."""
        command = f"copytrace index-{self.index.kind} REFERENCES --out"
        if self.index.provenance["role"] == "queries":
            return f"{command} FOLDER, a new folder, since this one holds queries"
        return f"the command that made it: {command} {self.index.root}"


class _HasIds(Protocol):
    @property
    def ids(self) -> pa.LargeStringArray: ...


# The segments of an index, by its folder, with the state that they were opened in. Those of an earlier one are closed,
# because they hold handles, and the space on disk of files that were deleted.
_opened: dict[str, tuple[str, Sequence[Any]]] = {}
_OPEN_LOCK = Lock()  # threads that search shards side by side share what is opened


@dataclass(frozen=True, slots=True)
class _Entry:
    """A segment as `segments.json` names it: size, form, and the state of each of its shards when it was made."""

    size: int
    form: str
    shards: dict[int, str]

    def current(self, states: Mapping[int, str]) -> list[int]:
        """Return the shards that the index still holds as they were."""
        return [shard for shard, state in self.shards.items() if states.get(shard) == state]

    def current_size(self, states: Mapping[int, str]) -> float:
        return self.size * len(self.current(states)) / max(len(self.shards), 1)


def write_segments(content: SegmentContent[Any], *, merge_all: bool = False) -> Path:
    """Bring the segments of an index up to date, and return their folder.

    Only shards that no segment holds are read, and those of the segments that the new one takes up: with `merge_all`,
    of all segments that could be fewer.
    """
    states, folder = content.index.items.states, content.index.root / "segments"
    listed = folder / SEGMENTS
    made_from = [content.made_by, sorted(states.items())]
    step = Step.of("index segments", listed, made_from=made_from, record=folder / COST)
    entries = _read_entries(content)
    if step.is_done() and not (merge_all and len(entries) > 1):
        _remove_others(folder, entries)  # a run may have been stopped before it did
        return folder
    # A segment more than half of which is gone is dropped, and what is left of it is written again.
    kept = {name: entry for name, entry in entries.items() if 2 * len(entry.current(states)) > len(entry.shards)}
    new = sorted(states.keys() - {shard for entry in kept.values() for shard in entry.current(states)})
    sizes = {shard: content.size(shard) for shard in new}
    form = content.form(sum(sizes.values()) + sum(entry.current_size(states) for entry in kept.values()))
    for name in [name for name, entry in kept.items() if entry.form != form]:
        sizes |= {shard: content.size(shard) for shard in kept.pop(name).current(states)}
    for name, entry in sorted(kept.items(), key=lambda item: item[1].current_size(states)):
        size, waiting = entry.current_size(states), sum(sizes.values())
        near = size <= ABSORBED * waiting if sizes else False
        if (near or merge_all) and size + waiting <= content.largest:
            sizes |= {shard: content.size(shard) for shard in kept.pop(name).current(states)}
    checksums = dict(read_record(listed).get("checksums", {}))
    with step.run(sum(sizes.values()), content.unit) as work:
        for shards in group_shards(dict(sorted(sizes.items())), content.largest):
            entry = _Entry(sum(sizes[shard] for shard in shards), form, {shard: states[shard] for shard in shards})
            name = digest_of(content.made_by, form, sorted(entry.shards.items()))
            with collect_checksums() as written:
                content.write(folder / name, shards, form, work)
            checksums |= checksums_by(listed, written)
            kept[name] = entry
        _write_entries(content, kept, checksums)  # from now on they are the index's segments
    _remove_others(folder, kept)
    return folder


def _remove_others(folder: Path, kept: Collection[str]) -> None:
    """Delete the files of segments that are not `kept`."""
    for path in folder.glob("*.*"):
        if path.name not in {SEGMENTS, COST} and path.stem not in kept:
            remove_file(path)


def drop_segments(root: Path, names: Collection[str]) -> None:
    """Take segments out of an index, by the names of their files; all of them, if the list of them is among these."""
    if not names:
        return
    folder = root / "segments"
    listed = folder / SEGMENTS
    remove_file(folder / COST)
    try:
        record = {} if listed.stem in names else read_record(listed)
    except DamagedFileError:
        record = {}
    if record:
        record["segments"] = {name: entry for name, entry in record["segments"].items() if name not in names}
        write_record(listed, record)
    else:
        remove_file(listed)
    for name in names:
        for path in folder.glob(f"{name}.*"):
            if path != listed:
                remove_file(path)


def open_current(content: SegmentContent[S]) -> Sequence[S]:
    """Open the segments of an index, once per process until it changes.

    Raises `InputError` if they do not hold all of its shards.
    """
    index, entries = content.index, _read_entries(content)
    states = index.items.states
    current = {name: tuple(entry.current(states)) for name, entry in entries.items()}
    if set(index.shards).difference(*current.values()):
        if holder := find_holder(index.root):
            raise InputError(
                f"{index.root} is being updated by {holder}; run the same command again when that has ended"
            )
        raise InputError(
            f"{index.root} lacks the segments that a search needs; make them with {content.command()}. What is "
            "described stays"
        )
    # The time of writing, so that what was repaired is opened anew.
    written = time_of_writing(index.root / "segments" / SEGMENTS)
    state = digest_of(index.fingerprint, sorted(states.items()), sorted(entries), written)
    root = str(index.root)
    with _OPEN_LOCK:
        if root not in _opened or _opened[root][0] != state:
            _opened.pop(root, None)
            folder = index.root / "segments"
            # In the order of their shards, in which one segment of all of them would have its media.
            ordered = sorted((shards, name) for name, shards in current.items() if shards)
            opened = [content.open(folder / name, shards) for shards, name in ordered]
            while len(_opened) >= MOST_OPENED:
                _opened.pop(next(iter(_opened)))
            _opened[root] = (state, opened)
        return _opened[root][1]


def current_media(
    index: MediaIndex, ids: pa.LargeStringArray, shard: NDArray[np.int32], shards: Sequence[int]
) -> NDArray[np.bool_]:
    """Return which media of a segment are still in the index, bool [R]; `shard` int32 [R] is the shard of each.

    `shards` are those of the segment that are as they were. The segment must list all media that they then held.
    """
    current = np.isin(shard, shards)
    held = np.bincount(index.items.shard_numbers, minlength=max(shards) + 1)
    listed = zip(*np.unique(shard[current], return_counts=True), strict=True)
    with_gaps = [number for number, count in listed if held[number] < count]
    # Only the ids of shards that lost some are looked up.
    doubtful = np.flatnonzero(current & np.isin(shard, with_gaps))
    current[doubtful] = index.items.shards_of(ids.take(pa.array(doubtful)).to_pylist()) == shard[doubtful]
    return np.asarray(current)


def record_of(path: Path) -> Path:
    """Return the record that has the checksums of the files of a segment."""
    return path.with_name(SEGMENTS)


def ids_of(segments: Sequence[_HasIds]) -> pa.LargeStringArray:
    """Return the ids of the media of segments, in their order."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *(segment.ids for segment in segments)])


def id_column(table: pa.Table) -> pa.LargeStringArray:
    """Return the column `id` of a table as one array."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *table.column("id").cast(pa.large_string()).chunks])


def group_shards(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Yield runs of shards, in order, that together have at most the size `most`, or one shard each that has more."""
    run: list[int] = []
    total = 0
    for shard, size in sizes.items():
        if run and total + size > most:
            yield run
            run, total = [], 0
        run.append(shard)
        total += size
    if run:
        yield run


def _read_entries(content: SegmentContent[Any]) -> dict[str, _Entry]:
    path = content.index.root / "segments" / SEGMENTS
    listed = read_record(path)
    if listed.get("made_by") != content.made_by:
        return {}
    try:
        return {
            name: _Entry(entry["size"], entry["form"], {int(shard): state for shard, state in entry["shards"].items()})
            for name, entry in listed["segments"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damage_error(path) from error


def _write_entries(content: SegmentContent[Any], entries: Mapping[str, _Entry], checksums: Mapping[str, str]) -> None:
    current = {file: value for file, value in checksums.items() if Path(file).stem in entries}
    segments = {
        name: {"size": entry.size, "form": entry.form, "shards": entry.shards} for name, entry in entries.items()
    }
    listed = {"made_by": content.made_by, "segments": segments, "checksums": current}
    write_record(content.index.root / "segments" / SEGMENTS, listed)
