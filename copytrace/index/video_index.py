"""An index of videos: descriptors of frames and panes, boxes of panes, durations and sizes; and the steps that fill it.

The steps plan it and then, per shard, describe frames and, of queries, their panes.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.videos import FrameDescriptorSettings, VideoSettings
from copytrace.arrays import Floats, Times
from copytrace.checked_files import read_checked
from copytrace.errors import DecodingLimitError, MediaError
from copytrace.features.descriptor_sources import descriptor_state
from copytrace.features.descriptors import Descriptor, load_descriptor, model_label
from copytrace.features.ensemble import load_ensemble, read_projection
from copytrace.features.repeated_pictures import RepeatedPictures
from copytrace.index.changes import note_content
from copytrace.index.given_up import GivenUpFiles, limits_of
from copytrace.index.media_index import MediaIndex, MediaKind, Role, check_unchanged, descriptors_path, receipt_path
from copytrace.index.odd_files import odd_file
from copytrace.index.plan_file import Shard, read_planned_shard
from copytrace.index.plan_source import plan_source
from copytrace.index.shard_files import open_descriptor_writer, table_vectors
from copytrace.media.failures import Failure
from copytrace.media.files import MediaItem
from copytrace.media.frames import Frame, frame_windows, open_video
from copytrace.media.prefetch import prefetch_parts
from copytrace.model_sources import model_state
from copytrace.overlays.detectors import OverlayDetector, load_overlay_detector
from copytrace.panes.find_panes import Pane, crop, find_panes, whole_pane
from copytrace.panes.names import WHOLE
from copytrace.runtime import usable_cores
from copytrace.step import Step, StepRun
from copytrace.storage import resolve_path
from copytrace.tables import table_of_rows, write_table

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

PARTS_AHEAD = 3  # parts that wait for the network, per video; the network takes about a second for one


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
    """A finished index of videos; its methods raise `DamagedFileError` if a file of a shard is missing or damaged."""

    kind: ClassVar[MediaKind] = "videos"

    def frames(self, shard: int) -> FrameDescriptors:
        """Return the descriptors of the current videos of a shard, in the order of `frame_counts`."""
        table = self._current_rows(descriptors_path(self.root, shard), shard)
        ids, panes = table.column("id").to_pylist(), table.column("pane").to_pylist()
        times = np.stack([table.column(name).to_numpy() for name in ("start", "end")], axis=1)
        vectors = table_vectors(table, descriptors_path(self.root, shard))
        return FrameDescriptors(tuple(ids), tuple(panes), times, vectors)

    def vectors(self, shard: int) -> Floats:
        """Return only the vectors of `frames(shard)`, in less time."""
        path = descriptors_path(self.root, shard)
        return table_vectors(self._current_rows(path, shard, columns=["id", "vector"]), path)

    def frame_counts(self, shard: int) -> list[tuple[str, int]]:
        """Return the number of rows of each current video of a shard, in their order."""
        ids = self._current_rows(descriptors_path(self.root, shard), shard, columns=["id"]).column("id")
        return [(identity, sum(1 for _ in group)) for identity, group in groupby(ids.to_pylist())]

    def facts(self) -> dict[str, VideoFacts]:
        """Return the facts about each current video, by its id."""
        facts: dict[str, VideoFacts] = {}
        for shard in self.shards:
            facts |= self.shard_facts(shard)
        return facts

    def shard_facts(self, shard: int) -> dict[str, VideoFacts]:
        """Return the facts about each current video of a shard, by its id."""
        table = self._current_rows(VideoPaths.of(self.root, shard).videos, shard, schema=VIDEO_SCHEMA)
        return {row.pop("id"): VideoFacts(**row) for row in table.to_pylist()}

    def pane_boxes(self, shard: int) -> pa.Table:
        """Return the boxes of the panes of a shard's current videos, with the columns of `PANE_SCHEMA`."""
        return self._current_rows(VideoPaths.of(self.root, shard).panes, shard, schema=PANE_SCHEMA)

    def _current_rows(self, path: Path, shard: int, **options: Any) -> pa.Table:
        table = read_checked(path, receipt_path(self.root, shard), **options)
        ids = table.column("id")
        there = pc.unique(ids).to_pylist()
        current = [identity for identity in there if self.is_current(identity, shard)]
        if len(current) == len(there):
            return table
        return table.filter(pc.is_in(ids, pa.array(current, pa.string())))


def load_video_models(descriptor: FrameDescriptorSettings, detector: str) -> tuple[Descriptor, OverlayDetector | None]:
    """Load the descriptor of frames and the overlay detector, once per process until their names mean other models."""
    descriptors = [descriptor_state(model) for model in (descriptor.model, *descriptor.also)]
    projection = descriptor.pca and read_projection(resolve_path(descriptor.pca)).digest
    return _load_video_models(descriptor, detector, (*descriptors, projection, model_state(detector, "overlay")))


@lru_cache(maxsize=4)
def _load_video_models(
    descriptor: FrameDescriptorSettings, detector: str, states: Hashable
) -> tuple[Descriptor, OverlayDetector | None]:
    backend, device = descriptor.backend, descriptor.device
    loaded: Descriptor
    if descriptor.also or descriptor.pca is not None:
        loaded = load_ensemble(descriptor)
    else:
        loaded = load_descriptor(
            descriptor.model,
            backend=backend,
            device=device,
            input_size=descriptor.input_size,
            trust_torchscript=descriptor.trust_torchscript,
        )
    return loaded, load_overlay_detector(detector, backend=backend, device=device)


def plan_videos(source: str, root: Path, role: Role, settings: VideoSettings, *, replace: bool) -> list[int]:
    """List the videos of `source`, plan the index at `root`, and return the numbers of the shards to describe.

    Raises `InputError` when the source cannot be used, and `ModelMismatchError` as `plan_index` does.
    """
    provenance = video_provenance(settings, role, *load_video_models(settings.descriptor, settings.panes.detector))

    def is_described(shard: Shard) -> bool:
        return _description(root, role, shard).is_done()

    return plan_source(source, root, provenance, settings.media, is_described=is_described, replace=replace)


def describe_videos(root: Path, shard: int, settings: VideoSettings) -> Path:
    """Write the descriptors of a planned shard's frames and panes, and return its receipt, which lists damaged videos.

    Threads decode, find panes and crop, window by window, while the network describes finished panes. Memory holds one
    window of frames and a few panes for each video that is being read, however long it is. Raises
    `ModelMismatchError` if a model is not the one that the index was planned with.
    """
    planned, provenance = read_planned_shard(root, shard)
    role: Role = provenance["role"]
    step = _description(root, role, planned)
    if step.is_done():
        return step.record
    descriptor, detector = load_video_models(settings.descriptor, settings.panes.detector)
    now = video_provenance(settings, role, descriptor, detector)
    check_unchanged(root, "descriptor", provenance["descriptor"], now["descriptor"])
    check_unchanged(root, "pane finder", provenance.get("panes"), now.get("panes"))
    with step.run(len(planned.items), "videos") as work:
        failures, damaged = _VideoShard(root, shard, descriptor, detector, settings, role).describe(planned.items, work)
        work.notes["failures"] = [asdict(failure) for failure in failures]
        work.notes["damaged"] = [asdict(failure) for failure in damaged]
    return step.record


def _description(root: Path, role: Role, shard: Shard) -> Step:
    paths = VideoPaths.of(root, shard.number)
    outputs = (descriptors_path(root, shard.number), paths.videos, paths.panes)
    return Step(f"describe {role}", outputs, shard.fingerprint, receipt_path(root, shard.number))


@dataclass(frozen=True, slots=True)
class _Part:
    """M pictures of one pane in successive frames, as the network takes them.

    `pictures` uint8 [M, …], of `Descriptor.resize`; `times` float64 [M, 2], seconds; `boxes` float32 [M, 4], shares of
    the frame.
    """

    pictures: NDArray[np.uint8]
    pane: str
    times: Times
    boxes: Floats


@dataclass(frozen=True, slots=True)
class _VideoShard:
    """The description of one shard of videos."""

    root: Path
    number: int
    descriptor: Descriptor
    detector: OverlayDetector | None
    settings: VideoSettings
    role: Role

    def describe(self, items: Sequence[MediaItem], work: StepRun) -> tuple[list[Failure], list[Failure]]:
        """Write the shard; return the videos that could not be read, and those that were read only in part."""
        failures, damaged = list[Failure](), list[Failure]()
        facts, boxes = list[tuple[object, ...]](), list[pa.Table]()
        threads = min(self.settings.media.threads or usable_cores(), len(items))
        # Each video has its own thread; several threads decode only a shard of one video.
        codec_threads = 1 if threads > 1 else self.settings.media.threads
        given_up = GivenUpFiles(self.root, self.settings.media)

        def load(item: MediaItem) -> Iterator[VideoFacts | _Part]:
            given_up.check(item)
            yield from self._read_video(item, codec_threads)

        paths = VideoPaths.of(self.root, self.number)
        with open_descriptor_writer(descriptors_path(self.root, self.number), self.descriptor.dimensions) as writer:
            read = note_content(load, work.notes.setdefault("contents", {}))
            for item, parts in prefetch_parts(items, read, threads=threads, ahead=PARTS_AHEAD):
                rows, describer = 0, RepeatedPictures(self.descriptor.describe, self.settings.descriptor.batch_size)
                try:
                    for part in parts:
                        if isinstance(part, VideoFacts):
                            facts.append((item.id, part.duration, part.width, part.height))
                            continue
                        vectors = describer.describe(part.pictures, part.pane)
                        count = len(part.times)
                        writer.add([item.id] * count, [part.pane] * count, vectors, part.times)
                        rows += count
                        if self.role == "queries":
                            boxes.append(_box_table(item, part))
                except MediaError as error:
                    if isinstance(error, DecodingLimitError) and not rows:
                        given_up.remember(item, error)
                    (damaged if rows else failures).append(odd_file(item, error, is_used=rows > 0))
                work.advance()
            write_table(paths.videos, table_of_rows(facts, VIDEO_SCHEMA))
            write_table(paths.panes, pa.concat_tables([PANE_SCHEMA.empty_table(), *boxes]))
        return failures, damaged

    def _read_video(self, item: MediaItem, codec_threads: int) -> Iterator[VideoFacts | _Part]:
        """Yield the facts about a video, then its parts. Raises `MediaError`, possibly after some of them."""
        rules, media = self.settings.frames, self.settings.media
        side = rules.query_side if self.role == "queries" else max(rules.reference_side, self.descriptor.input_size)
        video = open_video(item.path, max_pixels=media.max_pixels, limits=limits_of(media))
        yield VideoFacts(video.info.duration, video.info.width, video.info.height)
        frames = video.frames(per_second=rules.per_second, short_side=side, threads=codec_threads)
        for window in frame_windows(frames, rules.window):
            yield from self._cut_panes(window)

    def _cut_panes(self, frames: Sequence[Frame]) -> Iterator[_Part]:
        for pane in self._find_panes(frames):
            pictures, times, boxes, last = list[NDArray[np.uint8]](), [], [], None
            for frame, box in zip(frames, pane.boxes, strict=True):
                picture = frame.pixels if pane.name == WHOLE else crop(frame.pixels, box)
                if picture is not None:
                    # One that stands for long is the same array in all its frames.
                    pictures.append(pictures[-1] if picture is last else self.descriptor.resize(picture))
                    last = picture
                    times.append((frame.start, frame.end))
                    boxes.append(box)
            if pictures:
                yield _Part(np.stack(pictures), pane.name, np.array(times), np.array(boxes, np.float32))

    def _find_panes(self, frames: Sequence[Frame]) -> list[Pane]:
        if self.role == "references":
            return [whole_pane(len(frames))]
        return find_panes([frame.pixels for frame in frames], self.settings.panes, detector=self.detector)


def _box_table(item: MediaItem, part: _Part) -> pa.Table:
    columns = [[item.id] * len(part.times), [part.pane] * len(part.times), *part.times.T, *part.boxes.T]
    return pa.table(columns, schema=PANE_SCHEMA)
