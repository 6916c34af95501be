"""Export and import of descriptors of videos as .npz files of the Video Similarity Challenge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Times
from copytrace.errors import InputError
from copytrace.exchange.npz_files import open_frames, write_npz
from copytrace.index.media_index import Role, descriptors_path, receipt_path, write_index
from copytrace.index.plan_file import IndexPlan, Shard
from copytrace.index.shard_files import ROWS_PER_GROUP, open_descriptor_writer
from copytrace.index.video_index import FORMAT, PANE_SCHEMA, VIDEO_SCHEMA, VideoIndex, VideoPaths
from copytrace.index.video_segments import index_segments
from copytrace.lease import hold_lease
from copytrace.lease_files import FOLDER as LEASE
from copytrace.media.files import MediaItem
from copytrace.panes.names import WHOLE
from copytrace.step import Step
from copytrace.storage import digest_of_file
from copytrace.tables import write_table

ROWS_PER_SHARD = 1 << 16  # at least, of whole videos; 64 MiB of 256 numbers


def export_npz(index: VideoIndex, path: Path, *, panes: bool) -> int:
    """Write the descriptors of an index, with `panes` those of panes too, and return the number of rows.

    The file has a row per frame or pane; the challenge's own files have whole frames only. It is built in memory.
    Raises `InputError` for an index without frames.
    """
    ids: list[str] = []
    times, vectors = [], []
    for shard in index.shards:
        frames = index.frames(shard)
        rows = np.array([row for row, pane in enumerate(frames.panes) if panes or pane == WHOLE], np.intp)
        ids += [frames.ids[row] for row in rows]
        times.append(frames.times[rows])
        vectors.append(frames.vectors[rows])
    if not ids:
        raise InputError(f"{index.root} holds no frames; index some videos first")
    write_npz(path, ids, np.concatenate(times), np.concatenate(vectors))
    return len(ids)


def import_npz(npz: Path, root: Path, role: Role, *, model: str, typical_noise: float | None = None) -> VideoIndex:
    """Write an index at `root` with the descriptors in a file, and return it.

    `model` is the user's name for what made the descriptors; only indexes of the same model are compared.
    `typical_noise` is the usual cosine of a frame and its nearest unrelated ones by that model; scores among few videos
    need it. Vectors are scaled to unit length, and are never all in memory. If a video has several rows with one start,
    the first is the whole frame, and the others are its panes. Raises `InputError` as `open_frames` does, if the file
    has no rows or a row ends when it starts, and if `root` exists and is not an empty folder; and `InUseError` if
    another run writes into it.
    """
    if root.exists() and not (root.is_dir() and not [path for path in root.iterdir() if path.name != LEASE]):
        raise InputError(f"{root} is not an empty folder; import into a new one")
    with hold_lease(root):
        return _import(npz, root, role, model, typical_noise)


def _import(npz: Path, root: Path, role: Role, model: str, typical_noise: float | None) -> VideoIndex:
    with open_frames(npz) as (names, times, vectors):
        _check_rows(npz, names, times)
        fingerprint = digest_of_file(npz)
        provenance = {
            "format": FORMAT,
            "kind": "videos",
            "role": role,
            "descriptor": f"{model}, {vectors.shape[1]} numbers, imported",
            "typical_noise": typical_noise,
        }
        order = np.lexsort((times[:, 0], names))  # stable: rows of one start keep their order
        shards = []
        for number, rows in enumerate(_cut_shards(names[order], order)):
            shards.append(
                _write_shard(root, Shard(number, (), f"{fingerprint}-{number}"), npz, rows, (names, times, vectors))
            )
    write_index(IndexPlan(root, provenance, {}, tuple(shards)))
    if role == "references":
        index_segments(root)
    return VideoIndex.open(root)


def _cut_shards(names: NDArray[np.str_], order: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of whole videos, `ROWS_PER_SHARD` or more at a time but at the end; `names` are sorted."""
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    start = 0
    for end in [*starts[1:].tolist(), len(names)]:
        if end - start >= ROWS_PER_SHARD or end == len(names):
            yield order[start:end]
            start = end


def _write_shard(
    root: Path,
    shard: Shard,
    npz: Path,
    rows: NDArray[np.intp],
    arrays: tuple[NDArray[np.str_], Times, NDArray[np.floating[Any]]],
) -> Shard:
    """Write some rows of the arrays of a file, sorted by video and start, and return the shard with its videos."""
    names, times, vectors = arrays
    names, times = names[rows], times[rows]
    videos, starts = np.unique(names, return_index=True)
    ends = np.maximum.reduceat(times[:, 1], starts)
    items = tuple(MediaItem(str(video), f"{npz}#{video}", shard.fingerprint) for video in videos)
    paths, descriptors = VideoPaths.of(root, shard.number), descriptors_path(root, shard.number)
    outputs = (descriptors, paths.videos, paths.panes)
    unknown = np.zeros(len(videos), np.int32)
    step = Step("import descriptors", outputs, shard.fingerprint, receipt_path(root, shard.number))
    with step.run(len(videos), "videos") as work:
        write_table(paths.videos, pa.table([videos, ends, unknown, unknown], schema=VIDEO_SCHEMA))
        write_table(paths.panes, PANE_SCHEMA.empty_table())
        panes = _panes(names, times[:, 0])
        with open_descriptor_writer(descriptors, vectors.shape[1]) as writer:
            for start in range(0, len(rows), ROWS_PER_GROUP):
                part = slice(start, start + ROWS_PER_GROUP)
                block = np.asarray(vectors[rows[part]], np.float32)
                unit = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
                writer.add(names[part].tolist(), panes[part], unit, times[part])
        work.notes["failures"] = []
    return replace(shard, items=items)


def _check_rows(npz: Path, names: NDArray[np.str_], times: Times) -> None:
    if not len(names):
        raise InputError(f"{npz} holds no rows; export some descriptors first")
    if len(instants := np.flatnonzero(times[:, 0] == times[:, 1])):
        row = instants[0]
        raise InputError(
            f"{npz}: row {row + 1} ({names[row]}) ends when it starts, at {times[row, 0]}; give the seconds that a row "
            "stands for, or one time per row"
        )


def _panes(names: NDArray[np.str_], starts: Times) -> list[str]:
    """Return the panes of rows that are sorted by video and start: the whole frame, then pane0, pane1, …"""
    moments = zip(names.tolist(), starts.tolist(), strict=True)
    return [f"pane{number - 1}" if number else WHOLE for _, rows in groupby(moments) for number, _ in enumerate(rows)]
