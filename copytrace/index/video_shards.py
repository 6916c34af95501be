"""What is computed of one shard of videos: descriptors of their frames, and of each pane of a query's frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.errors import MediaError
from copytrace.features.descriptors import Descriptor, resize_for_descriptor
from copytrace.index.descriptor_files import DescriptorWriter, open_descriptor_writer
from copytrace.index.media_index import Role, descriptors_path
from copytrace.index.video_index import PANE_SCHEMA, VIDEO_SCHEMA, VideoFacts, VideoPaths
from copytrace.media.failures import Failure
from copytrace.media.frames import Frame, open_video
from copytrace.media.ingest import MediaItem
from copytrace.media.prefetch import prefetch_parts
from copytrace.overlays.boxes import OverlayDetector
from copytrace.panes.find_panes import Pane, crop, find_panes, whole_pane
from copytrace.panes.names import WHOLE
from copytrace.progress import Stage
from copytrace.runtime.devices import usable_cores
from copytrace.storage import write_table

PARTS_AHEAD = 3  # panes of a window, of each video that is being read; one takes the network about a second


@dataclass(frozen=True, slots=True)
class DescribedShard:
    """The videos of a shard that could not be used, and those that were read only up to some damage."""

    failures: list[Failure]
    damaged: list[Failure]


@dataclass(frozen=True, slots=True)
class _Part:
    """Pictures of one pane in successive frames, ready for the network: M rows.

    `pictures` uint8 [M, S, S, 3]; `times` float64 [M, 2], seconds; `boxes` float32 [M, 4], shares of the frame.
    """

    pictures: NDArray[np.uint8]
    pane: str
    times: NDArray[np.float64]
    boxes: NDArray[np.float32]


def describe_videos(
    items: Sequence[MediaItem],
    root: Path,
    number: int,
    descriptor: Descriptor,
    detector: OverlayDetector | None,
    settings: VideoSettings,
    *,
    role: Role,
    stamp: str,
    stage: Stage,
) -> DescribedShard:
    """Write descriptors, panes and facts of a shard, and return what could not be read, or not to its end.

    Threads decode, find panes and crop, window by window, while the network describes what they have; memory holds a
    window's frames and a few of its panes of each video that is being read, however long it is. The descriptors are
    moved into place last.
    """
    paths, shard = VideoPaths.of(root, number), DescribedShard([], [])
    facts: list[tuple[str, float, int, int]] = []
    boxes: list[pa.Table] = []

    def load(item: MediaItem) -> Iterator[VideoFacts | _Part]:
        return _windows(item, descriptor.input_size, detector, settings, role, codec_threads)

    threads = min(settings.media.threads or usable_cores(), len(items))
    # Each video has a thread of its own; only a lone one is decoded by several.
    codec_threads = 1 if threads > 1 else 0
    with open_descriptor_writer(descriptors_path(root, number), descriptor.dimensions, stamp=stamp) as writer:
        for item, parts in prefetch_parts(items, load, threads=threads, ahead=PARTS_AHEAD):
            rows = 0
            try:
                for part in parts:
                    if isinstance(part, VideoFacts):
                        facts.append((item.id, part.duration, part.width, part.height))
                        continue
                    _describe(item, part, descriptor, settings.descriptor.batch_size, writer)
                    rows += len(part.times)
                    if role == "queries":
                        boxes.append(_table_of_boxes(item, part))
            except MediaError as error:
                failure = Failure(item.id, item.path, "decode", str(error) + ("; used up to there" if rows else ""))
                (shard.damaged if rows else shard.failures).append(failure)
            stage.advance()
        write_table(paths.videos, pa.table(_columns(facts, VIDEO_SCHEMA), schema=VIDEO_SCHEMA), stamp=stamp)
        write_table(paths.panes, pa.concat_tables([PANE_SCHEMA.empty_table(), *boxes]), stamp=stamp)
    return shard


def _windows(
    item: MediaItem,
    input_size: int,
    detector: OverlayDetector | None,
    settings: VideoSettings,
    role: Role,
    codec_threads: int,
) -> Iterator[VideoFacts | _Part]:
    """Yield what is known of a video, and its windows. Raises `MediaError`, perhaps after some of them."""
    rules = settings.frames
    side = rules.query_side if role == "queries" else max(rules.reference_side, input_size)
    video = open_video(item.path, max_pixels=settings.media.max_pixels)
    yield VideoFacts(video.info.duration, video.info.width, video.info.height)
    frames = video.frames(per_second=rules.per_second, short_side=side, threads=codec_threads)
    error: MediaError | None = None
    while error is None:
        window: list[Frame] = []
        try:
            window.extend(islice(frames, rules.window))  # what comes before the damage stays in the list
        except MediaError as damage:
            error = damage
        if window:
            yield from _parts(window, input_size, detector, settings, role)
        elif error is None:
            return
    raise error


def _parts(
    frames: Sequence[Frame], input_size: int, detector: OverlayDetector | None, settings: VideoSettings, role: Role
) -> Iterator[_Part]:
    for pane in _panes_of(frames, detector, settings, role):
        pictures, times, boxes = [], [], []
        for frame, box in zip(frames, pane.boxes, strict=True):
            picture = frame.pixels if pane.name == WHOLE else crop(frame.pixels, box)
            if picture is not None:
                pictures.append(resize_for_descriptor(picture, input_size))
                times.append((frame.start, frame.end))
                boxes.append(box)
        if pictures:
            yield _Part(np.stack(pictures), pane.name, np.array(times), np.array(boxes, np.float32))


def _panes_of(
    frames: Sequence[Frame], detector: OverlayDetector | None, settings: VideoSettings, role: Role
) -> list[Pane]:
    if role == "references":
        return [whole_pane(len(frames))]
    return find_panes([frame.pixels for frame in frames], settings.panes, detector=detector)


def _describe(item: MediaItem, part: _Part, descriptor: Descriptor, batch_size: int, writer: DescriptorWriter) -> None:
    count = len(part.times)
    batches = (part.pictures[start : start + batch_size] for start in range(0, count, batch_size))
    vectors = np.concatenate([descriptor.describe(batch) for batch in batches])
    writer.add([item.id] * count, [part.pane] * count, vectors, part.times)


def _table_of_boxes(item: MediaItem, part: _Part) -> pa.Table:
    count = len(part.times)
    columns = [[item.id] * count, [part.pane] * count, part.times[:, 0], part.times[:, 1], *part.boxes.T]
    return pa.table(columns, schema=PANE_SCHEMA)


def _columns(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> list[Sequence[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * len(schema)
