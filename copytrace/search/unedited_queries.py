"""The step that finds the queries that were surely not edited, which are not searched."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.checked_files import read_checked
from copytrace.errors import MediaError
from copytrace.features.editing import EditingDetector, load_editing_detector
from copytrace.index.given_up import limits_of
from copytrace.index.video_index import VideoIndex
from copytrace.media.frames import open_video
from copytrace.run_folder import VideoRunFolder
from copytrace.step import Step
from copytrace.storage import resolve_path, time_of_writing
from copytrace.tables import table_of_rows, write_table

SCHEMA = pa.schema([("id", pa.string()), ("probability", pa.float64())])


def detect_editing(
    shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> Path:
    """Write the probability that each query of a shard was edited, and return the file.

    A video that cannot be read counts as edited. Raises `ConfigError` for a detector that cannot be loaded.
    """
    index, path = VideoIndex.open(queries), folder.editing(shard)
    detector = editing_detector(settings)
    made_from = [shard, index.fingerprint, index.ids_in(shard), detector.digest, settings.frames.per_second]
    step = Step.of("detect editing", path, made_from=made_from)
    if step.is_done():
        return path
    with step.run(len(index.ids_in(shard)), "videos") as work:
        rows = []
        for identity in sorted(index.ids_in(shard)):
            rows.append((identity, _probability(detector, identity, index.paths[identity], settings)))
            work.advance()
        write_table(path, table_of_rows(rows, SCHEMA))
    return path


def editing_detector(settings: VideoSettings) -> EditingDetector:
    """Return the detector of the settings, loaded once per process until its file changes."""
    source = settings.editing.detector or ""
    path = resolve_path(source)
    state = time_of_writing(path) if path.is_file() else None
    return _load(source, settings.descriptor.device, settings.descriptor.trust_torchscript, state)


@lru_cache(maxsize=2)
def _load(source: str, device: str | None, trust_torchscript: bool, state: Hashable) -> EditingDetector:
    return load_editing_detector(source, device=device, trust_torchscript=trust_torchscript)


def read_unedited(folder: VideoRunFolder, shard: int, settings: VideoSettings) -> frozenset[str]:
    """Return the queries of a shard that were surely not edited: none without a detector."""
    if settings.editing.detector is None:
        return frozenset()
    table = read_checked(folder.editing(shard), schema=SCHEMA)
    below = table.column("probability").to_numpy() < settings.editing.threshold
    return frozenset(table.column("id").filter(pa.array(below)).to_pylist())


def _probability(detector: EditingDetector, identity: str, path: str, settings: VideoSettings) -> float:
    if not detector.takes_frames:
        return detector.probability(identity, ())
    try:
        return detector.probability(identity, _frames(path, settings))
    except MediaError:
        return 1.0


def _frames(path: str, settings: VideoSettings) -> Iterator[NDArray[np.uint8]]:
    media, rules = settings.media, settings.frames
    video = open_video(path, max_pixels=media.max_pixels, limits=limits_of(media))
    for frame in video.frames(per_second=rules.per_second, short_side=rules.query_side):
        yield frame.pixels
