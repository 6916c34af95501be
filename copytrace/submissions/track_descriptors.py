"""Descriptors in the form of VSC2022's descriptor track: inner products are the normalized scores of a run.

By the track's winners, the number that varies least among the noise makes room for another one, which is 1 for
references and, for a query frame, minus its noise level times the weight. A query that was surely not edited is
replaced by one row of tiny random numbers that scores about -100 with everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.videos import VideoSettings
from copytrace.arrays import Floats, Times
from copytrace.errors import InputError
from copytrace.exchange.npz_files import write_npz
from copytrace.index.video_index import FrameDescriptors, VideoIndex
from copytrace.panes.names import WHOLE
from copytrace.run_folder import VideoRunFolder
from copytrace.search.frame_search import place_of_least_variance
from copytrace.search.mapped_vectors import drop_number
from copytrace.search.unedited_queries import read_unedited
from copytrace.search.video_candidates import read_noise_levels
from copytrace.search.video_ranking import distinct_frames
from copytrace.storage import read_json, resolve_path

UNEDITED_BIAS = -100.0
TINY = 1e-5  # the numbers of a replaced descriptor are drawn between minus this and this

Rows = tuple[list[str], Times, Floats]


@dataclass(frozen=True, slots=True)
class _Run:
    """A finished run of videos: its folder, its settings, and the place of the number that is dropped."""

    folder: VideoRunFolder
    settings: VideoSettings
    queries: Path
    dropped: int | None

    @classmethod
    def read(cls, out: Path) -> _Run:
        folder = VideoRunFolder(out)
        try:
            facts = read_json(folder.summary)
            settings = VideoSettings.model_validate(facts["settings"])
            queries, references = (resolve_path(facts["indexes"][role]) for role in ("queries", "references"))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{out} is no finished run of match-videos; give its output folder") from error
        noise = resolve_path(settings.search.noise) if settings.search.noise else references
        drops = settings.search.drop_least_variance
        return cls(folder, settings, queries, place_of_least_variance(VideoIndex.open(noise)) if drops else None)

    def shorten(self, vectors: Floats) -> Floats:
        """Return vectors without the dropped number, of unit length."""
        if self.dropped is None:
            return vectors
        return np.delete(drop_number(vectors, self.dropped), self.dropped, axis=1)


def write_track_descriptors(index: VideoIndex, out: Path, path: Path, *, panes: bool) -> int:
    """Write the descriptors of the queries or the references of the finished run `out`; return the number of rows.

    With `panes`, those of queries' panes are written, too. Of queries, frames that `search.duplicate_likeness` passes
    over are left out. The file is built in memory. Raises `InputError` if there is no such run, if it has other queries
    than `index`, and for an index without frames.
    """
    run = _Run.read(out)
    if index.provenance["role"] == "queries":
        if index.root.absolute() != run.queries.absolute():
            raise InputError(f"{out} searched for {run.queries}, not for {index.root}; give the former")
        parts = [part for shard in index.shards for part in _query_rows(index, run, shard, panes)]
    else:
        parts = [_rows(frames, run.shorten(frames.vectors), 1.0) for frames in map(index.frames, index.shards)]
    ids = [video for names, _, _ in parts for video in names]
    if not ids:
        raise InputError(f"{index.root} holds no frames; index some videos first")
    write_npz(path, ids, np.concatenate([times for _, times, _ in parts]), np.concatenate([part[2] for part in parts]))
    return len(ids)


def _query_rows(index: VideoIndex, run: _Run, shard: int, panes: bool) -> Iterator[Rows]:
    """Yield the rows of each query of a shard."""
    frames, rules = index.frames(shard), run.settings.search
    levels, unedited = read_noise_levels(run.folder.noise(shard)), read_unedited(run.folder, shard, run.settings)
    if len(levels) != len(frames.ids):
        raise InputError(f"{run.folder.out} searched for other frames than {index.root} has; match again")
    vectors = run.shorten(frames.vectors)
    for number, (video, rows) in enumerate(frames.rows_of_videos().items()):
        if video in unedited:
            random = np.random.default_rng((shard, number)).uniform(-TINY, TINY, (1, vectors.shape[1]))
            yield [video], np.array([[0.0, 1.0]]), _append(random.astype(np.float32), UNEDITED_BIAS)
            continue
        part = frames.part(rows)
        kept = np.array([panes or pane == WHOLE for pane in part.panes])
        if rules.duplicate_likeness is not None:
            kept[kept] = distinct_frames(part.vectors[kept], rules.duplicate_likeness)
        own = slice(rows.start, rows.stop)
        bias = -rules.normalization_weight * levels[own][kept]
        yield [video] * int(kept.sum()), part.times[kept], _append(vectors[own][kept], bias)


def _rows(frames: FrameDescriptors, vectors: Floats, last: float) -> Rows:
    return list(frames.ids), frames.times, _append(vectors, last)


def _append(vectors: Floats, last: Floats | float) -> Floats:
    """Return float32 [N, D + 1]: vectors [N, D] and a further number."""
    return np.column_stack([vectors, np.broadcast_to(np.float32(last), len(vectors))]).astype(np.float32)
