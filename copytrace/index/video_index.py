"""An index of videos: descriptors of frames and panes, boxes of panes, and durations and sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.videos import VideoSettings
from copytrace.arrays import Floats, Times
from copytrace.errors import InputError
from copytrace.features.descriptors import Descriptor, model_label
from copytrace.index.descriptor_files import table_vectors
from copytrace.index.media_index import MediaIndex, MediaKind, Role, descriptors_path
from copytrace.overlays.boxes import OverlayDetector
from copytrace.storage import read_table

FORMAT = 1
VIDEO_SCHEMA = pa.schema(
    [("id", pa.string()), ("duration", pa.float64()), ("width", pa.int32()), ("height", pa.int32())]
)
PANE_SCHEMA = pa.schema(
    [
        *(("id", pa.string()), ("pane", pa.string()), ("start", pa.float64()), ("end", pa.float64())),
        *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1")),
    ]
)


@dataclass(frozen=True, slots=True)
class FrameDescriptors:
    """Descriptors of N frames and panes: `times` float64 [N, 2], start and end in seconds; `vectors` float32 [N, D].

    Vectors have unit length. The rows of a video are contiguous, and those of a pane are in order of time.
    """

    ids: tuple[str, ...]
    panes: tuple[str, ...]
    times: Times
    vectors: Floats

    def part(self, rows: slice) -> FrameDescriptors:
        """Return some of the rows; the arrays are views."""
        return FrameDescriptors(self.ids[rows], self.panes[rows], self.times[rows], self.vectors[rows])

    def rows_of_videos(self) -> dict[str, slice]:
        """Return the rows of each video."""
        rows, start = {}, 0
        for identity, group in groupby(self.ids):
            count = sum(1 for _ in group)
            rows[identity] = slice(start, start + count)
            start += count
        return rows


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Duration in seconds and displayed size in pixels of a video; the size is 0 where only descriptors are known."""

    duration: float
    width: int
    height: int


def video_provenance(
    settings: VideoSettings, role: Role, descriptor: Descriptor, detector: OverlayDetector | None
) -> dict[str, Any]:
    """Return everything that decides the content of an index of this role, and nothing else."""
    frames = settings.frames
    provenance: dict[str, Any] = {
        "format": FORMAT,
        "kind": "videos",
        "role": role,
        "descriptor": model_label(descriptor),
        "typical_noise": descriptor.typical_noise,
        "frames_per_second": frames.per_second,
        "short_side": frames.query_side if role == "queries" else frames.reference_side,
    }
    if role == "queries":
        provenance["window"] = frames.window
        provenance["panes"] = settings.panes.model_dump() | {"digest": detector.digest if detector else "none"}
    as_read_back: dict[str, Any] = json.loads(json.dumps(provenance))
    return as_read_back


@dataclass(frozen=True, slots=True)
class VideoPaths:
    """Files of one shard of videos, besides its descriptors and receipt."""

    videos: Path
    panes: Path

    @classmethod
    def of(cls, root: Path, number: int) -> VideoPaths:
        """Return the paths of shard `number` under the index folder `root`."""
        return cls(root / "videos" / f"{number:05}.parquet", root / "panes" / f"{number:05}.parquet")


@dataclass(frozen=True, slots=True)
class VideoIndex(MediaIndex):
    """A finished index of videos; its methods raise `InputError` if a file of a shard is missing or damaged."""

    kind: ClassVar[MediaKind] = "videos"

    def frames(self, shard: int) -> FrameDescriptors:
        """Return the descriptors of the current videos of a shard, in the order of `frame_counts`."""
        table = self._current_rows(descriptors_path(self.root, shard), shard)
        ids, panes = table.column("id").to_pylist(), table.column("pane").to_pylist()
        times = np.stack([table.column(name).to_numpy() for name in ("start", "end")], axis=1)
        return FrameDescriptors(tuple(ids), tuple(panes), times, table_vectors(table))

    def vectors(self, shard: int) -> Floats:
        """Return only the vectors of `frames(shard)`, in less time."""
        return table_vectors(self._current_rows(descriptors_path(self.root, shard), shard, columns=["id", "vector"]))

    def frame_counts(self, shard: int) -> list[tuple[str, int]]:
        """Return the number of rows of each current video of a shard, in their order."""
        ids = self._current_rows(descriptors_path(self.root, shard), shard, columns=["id"]).column("id")
        return [(identity, sum(1 for _ in group)) for identity, group in groupby(ids.to_pylist())]

    def facts(self) -> dict[str, VideoFacts]:
        """Return the facts about each current video, by its id."""
        facts: dict[str, VideoFacts] = {}
        for shard in self.shards:
            table = self._current_rows(VideoPaths.of(self.root, shard).videos, shard, schema=VIDEO_SCHEMA)
            facts |= {row.pop("id"): VideoFacts(**row) for row in table.to_pylist()}
        return facts

    def pane_boxes(self, shard: int) -> pa.Table:
        """Return the boxes of the panes of a shard's current videos, with the columns of `PANE_SCHEMA`."""
        return self._current_rows(VideoPaths.of(self.root, shard).panes, shard, schema=PANE_SCHEMA)

    def _current_rows(self, path: Path, shard: int, **options: Any) -> pa.Table:
        try:
            table = read_table(path, **options)
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} is missing or damaged; delete {self.root} and index again") from error
        ids = table.column("id")
        there = pc.unique(ids).to_pylist()
        current = [identity for identity in there if self.is_current(identity, shard)]
        if len(current) == len(there):
            return table
        return table.filter(pc.is_in(ids, pa.array(current, pa.string())))
