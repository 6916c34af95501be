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
from copytrace.features.descriptor_table import DescriptorWriter, writing_descriptors
from copytrace.features.descriptors import Descriptor, resize_for_descriptor
from copytrace.features.devices import usable_cores
from copytrace.features.media_index import Role, descriptors_path
from copytrace.features.overlay import OverlayDetector
from copytrace.features.panes import Pane, crop, find_panes
from copytrace.features.video_index import PANE_SCHEMA, VIDEO_SCHEMA, WHOLE, VideoFacts, VideoPaths
from copytrace.media.failures import Failure
from copytrace.media.frames import Frame, open_video
from copytrace.media.ingest import MediaItem
from copytrace.media.prefetch import prefetch_parts
from copytrace.progress import Stage
from copytrace.storage import write_table

WINDOWS_AHEAD = 1  # of each video that is being read; one is already as much as the network takes seconds for


@dataclass(frozen=True, slots=True)
class DescribedShard:
    """The videos of a shard that could not be used, and those that were read only up to some damage."""

    failures: list[Failure]
    damaged: list[Failure]


@dataclass(frozen=True, slots=True)
class _Window:
    """Pictures of successive frames, ready for the network: M rows, pane by pane.

    `pictures` uint8 [M, S, S, 3]; `times` float64 [M, 2], seconds; `boxes` float32 [M, 4], shares of the frame.
    """

    pictures: NDArray[np.uint8]
    panes: list[str]
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

    Threads decode, find panes and crop, window by window, while the network describes the window before; memory holds
    two windows of each video that is being read, however long it is. The descriptors are moved into place last.
    """
    paths, shard = VideoPaths.of(root, number), DescribedShard([], [])
    facts: list[tuple[str, float, int, int]] = []
    boxes: list[pa.Table] = []

    def load(item: MediaItem) -> Iterator[VideoFacts | _Window]:
        return _windows(item, descriptor.input_size, detector, settings, role, codec_threads)

    threads = min(settings.media.threads or usable_cores(), len(items))
    # Each video has a thread of its own; only a lone one is decoded by several.
    codec_threads = 1 if threads > 1 else 0
    with writing_descriptors(descriptors_path(root, number), descriptor.dimensions, stamp=stamp) as writer:
        for item, parts in prefetch_parts(items, load, threads=threads, ahead=WINDOWS_AHEAD):
            rows = 0
            try:
                for part in parts:
                    if isinstance(part, VideoFacts):
                        facts.append((item.id, part.duration, part.width, part.height))
                        continue
                    _describe(item, part, descriptor, settings.descriptor.batch_size, writer)
                    rows += len(part.panes)
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
) -> Iterator[VideoFacts | _Window]:
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
            yield _window(window, input_size, detector, settings, role)
        elif error is None:
            return
    raise error


def _window(
    frames: Sequence[Frame], input_size: int, detector: OverlayDetector | None, settings: VideoSettings, role: Role
) -> _Window:
    pictures, names, times, boxes = [], [], [], []
    for pane in _panes_of(frames, detector, settings, role):
        for frame, box in zip(frames, pane.boxes, strict=True):
            picture = frame.pixels if pane.name == WHOLE else crop(frame.pixels, box)
            if picture is None:
                continue
            pictures.append(resize_for_descriptor(picture, input_size))
            names.append(pane.name)
            times.append((frame.start, frame.end))
            boxes.append(box)
    return _Window(np.stack(pictures), names, np.array(times), np.array(boxes, np.float32))


def _panes_of(
    frames: Sequence[Frame], detector: OverlayDetector | None, settings: VideoSettings, role: Role
) -> list[Pane]:
    if role == "references":
        return [Pane(WHOLE, np.tile(np.array([0, 0, 1, 1], np.float32), (len(frames), 1)))]
    return find_panes(
        [frame.pixels for frame in frames], detector=detector, **settings.panes.model_dump(exclude={"detector"})
    )


def _describe(
    item: MediaItem, window: _Window, descriptor: Descriptor, batch_size: int, writer: DescriptorWriter
) -> None:
    starts = range(0, len(window.pictures), batch_size)
    vectors = [descriptor.describe(window.pictures[start : start + batch_size]) for start in starts]
    writer.add([item.id] * len(window.panes), window.panes, np.concatenate(vectors), window.times)


def _table_of_boxes(item: MediaItem, window: _Window) -> pa.Table:
    count = len(window.panes)
    columns = [[item.id] * count, window.panes, window.times[:, 0], window.times[:, 1], *window.boxes.T]
    return pa.table(columns, schema=PANE_SCHEMA)


def _columns(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> list[Sequence[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * len(schema)
