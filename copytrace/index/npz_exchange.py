"""Export and import of descriptors of videos as .npz files of the Video Similarity Challenge."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from copytrace.arrays import Times
from copytrace.errors import InputError
from copytrace.index.media_index import Role, descriptors_path, receipt_path, write_index
from copytrace.index.npz_files import read_npz, write_npz
from copytrace.index.plan_file import IndexPlan, Shard
from copytrace.index.shard_files import open_descriptor_writer
from copytrace.index.video_index import FORMAT, PANE_SCHEMA, VIDEO_SCHEMA, VideoIndex, VideoPaths
from copytrace.index.video_segments import index_segments
from copytrace.lease import FOLDER as LEASE
from copytrace.lease import hold_lease
from copytrace.media.files import MediaItem
from copytrace.panes.names import WHOLE
from copytrace.step import Step
from copytrace.storage import digest_of_file, write_table


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
    need it. Vectors are scaled to unit length. If a video has several rows with one start, the first is the whole
    frame, and the others are its panes. Raises `InputError` as `read_npz` does, if the file has no rows or a row ends
    when it starts, and if `root` exists and is not an empty folder; and `InUseError` if another run writes into it.
    """
    if root.exists() and not (root.is_dir() and not [path for path in root.iterdir() if path.name != LEASE]):
        raise InputError(f"{root} is not an empty folder; import into a new one")
    with hold_lease(root):
        return _import(npz, root, role, model, typical_noise)


def _import(npz: Path, root: Path, role: Role, model: str, typical_noise: float | None) -> VideoIndex:
    names, times, vectors = read_npz(npz)
    _check_rows(npz, names, times)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
    order = np.lexsort((times[:, 0], names))  # stable: rows of one start keep their order
    names, times, vectors = names[order], times[order], vectors[order]
    provenance = {
        "format": FORMAT,
        "kind": "videos",
        "role": role,
        "descriptor": f"{model}, {vectors.shape[1]} numbers, imported",
        "typical_noise": typical_noise,
    }
    fingerprint = digest_of_file(npz)
    videos, starts = np.unique(names, return_index=True)
    ends = np.maximum.reduceat(times[:, 1], starts)
    items = tuple(MediaItem(str(video), f"{npz}#{video}", fingerprint) for video in videos)
    paths, descriptors = VideoPaths.of(root, 0), descriptors_path(root, 0)
    outputs = (descriptors, paths.videos, paths.panes)
    unknown = np.zeros(len(videos), np.int32)
    with Step("import descriptors", outputs, fingerprint, receipt_path(root, 0)).run(len(videos), "videos") as work:
        write_table(paths.videos, pa.table([videos, ends, unknown, unknown], schema=VIDEO_SCHEMA))
        write_table(paths.panes, PANE_SCHEMA.empty_table())
        with open_descriptor_writer(descriptors, vectors.shape[1]) as writer:
            writer.add(names.tolist(), _panes(names, times[:, 0]), vectors, times)
        work.notes["failures"] = []
    write_index(IndexPlan(root, provenance, {}, (Shard(0, items, fingerprint),)))
    if role == "references":
        index_segments(root)
    return VideoIndex.open(root)


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
