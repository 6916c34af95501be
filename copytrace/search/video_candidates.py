"""Candidates of query videos: the references whose frames are most similar to theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings, VideoSettings
from copytrace.arrays import Floats, Numbers
from copytrace.errors import InputError
from copytrace.index.media_index import check_model
from copytrace.index.video_index import FrameDescriptors, VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.search.vector_search import MAX_NEIGHBORS, FrameSearch, build_frame_search, noise_level
from copytrace.step import Step, StepRun
from copytrace.storage import digest_of, read_table, real_path, resolve_path, write_table

QUERY_ROWS = 8192  # query frames searched at a time, up to the end of a video; each search reads all references

CANDIDATE_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("reference_id", pa.string()),
        ("score", pa.float32()),
        ("cosine", pa.float32()),
        ("pane", pa.string()),
        ("query_second", pa.float64()),
    ]
)
BEST_FIRST = [
    ("query_id", "ascending"),
    ("score", "descending"),
    ("cosine", "descending"),
    ("reference_id", "ascending"),
]
NOISE_SCHEMA = pa.schema([("id", pa.string()), ("level", pa.float32())])


def search_frames(shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings) -> Path:
    """Write the candidates of a shard of queries, best first, with the noise level of each query frame.

    A frame's score is its cosine minus `normalization_weight` times its noise level: the mean of its highest cosines
    to frames that it was certainly not copied from (score normalization, VSC 2022). A video is never its own candidate,
    nor its own noise. Returns the file of the candidates.

    Raises `ModelMismatchError` if other models made the indexes, and `InputError` if the noise index shares an id with
    the references, since its videos could then be the copied ones.
    """
    rules = settings.search
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    noise = VideoIndex.open(resolve_path(rules.noise)) if rules.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.provenance["descriptor"])
    if noise:
        _check_disjoint(noise, reference_index)
    path, noise_path = folder.candidates(shard), folder.noise(shard)
    # The ids of the shard count too: a video that was removed and added again lies in another shard of an index with
    # the same fingerprint.
    indexes = [query_index.fingerprint, reference_index.fingerprint, noise and noise.fingerprint]
    step = Step.of(
        "search frames", path, noise_path, made_from=[shard, query_index.ids_in(shard), indexes, rules.model_dump()]
    )
    if step.is_done():
        return path
    frames = query_index.frames(shard)
    search = _ShardSearch.of(frames, query_index, reference_index, noise, rules)
    levels, candidates = [np.zeros(0, np.float32)], [CANDIDATE_SCHEMA.empty_table()]
    with step.run(len(frames.ids), "frames") as work:
        for video_rows in _cut_at_videos(frames, QUERY_ROWS):
            level, hits = search.hits(video_rows, work)
            levels.append(level)
            candidates.append(_rank(frames.part(video_rows), level, hits, search.references.ids, rules))
        write_table(noise_path, pa.table([frames.ids, np.concatenate(levels)], schema=NOISE_SCHEMA))
        write_table(path, pa.concat_tables(candidates).sort_by(BEST_FIRST))
    return path


@dataclass(frozen=True, slots=True)
class _ShardSearch:
    """The search of a shard's query frames.

    `own_reference` and `own_noise` int32 [N] are the position of each frame's own video in `references` and `noise`.
    """

    frames: FrameDescriptors
    references: VideoFrameSearch
    noise: VideoFrameSearch | None
    own_reference: NDArray[np.int32]
    own_noise: NDArray[np.int32] | None
    typical: float | None
    rules: FrameSearchSettings

    @classmethod
    def of(
        cls,
        frames: FrameDescriptors,
        queries: VideoIndex,
        references: VideoIndex,
        noise: VideoIndex | None,
        rules: FrameSearchSettings,
    ) -> _ShardSearch:
        searched = load_frame_search(references, rules)
        searched_noise = load_frame_search(noise, rules) if noise else None
        return cls(
            frames,
            searched,
            searched_noise,
            _own_videos(frames, queries, references, searched.ids),
            _own_videos(frames, queries, noise, searched_noise.ids) if noise and searched_noise else None,
            queries.provenance["typical_noise"] if rules.typical_noise is None else rules.typical_noise,
            rules,
        )

    def hits(self, video_rows: slice, work: StepRun) -> tuple[Floats, NDArray[np.void]]:
        """Return the noise level of each frame of `video_rows`, which are whole videos, and the hits of the frames."""
        levels, hits = [], []
        for start in range(video_rows.start, video_rows.stop, QUERY_ROWS):
            rows = slice(start, min(start + QUERY_ROWS, video_rows.stop))
            vectors, own = self.frames.vectors[rows], self.own_reference[rows]
            cosines, videos = self.references.nearest_of_others(vectors, own, self.rules.hits_per_frame)
            level = self._noise_level(rows, cosines, videos)
            found = best_per_video(cosines - self.rules.normalization_weight * level[:, None], videos)
            found["frame"] += start - video_rows.start
            levels.append(level)
            hits.append(found)
            work.advance(len(level))
        return np.concatenate(levels), np.concatenate(hits)

    def _noise_level(self, rows: slice, cosines: Floats, videos: NDArray[np.int32]) -> Floats:
        neighbours = self.rules.normalization_neighbours
        if self.noise and self.own_noise is not None:
            to_noise, _ = self.noise.nearest_of_others(self.frames.vectors[rows], self.own_noise[rows], neighbours)
            return noise_level(to_noise, neighbours, typical=self.typical)
        level = noise_level(_drop_nearest_video(cosines, videos), neighbours, typical=self.typical)
        # Among few references, the nearest frames do not show how similar unrelated ones can be.
        return level if self.typical is None else np.maximum(level, np.float32(self.typical))


def read_video_candidates(path: Path) -> list[tuple[str, str, float]]:
    """Return query, reference and score of each candidate pair."""
    table = read_table(path, columns=["query_id", "reference_id", "score"])
    return list(zip(*(table.column(n).to_pylist() for n in range(3)), strict=True))


def read_noise_levels(path: Path) -> Floats:
    """Return the noise level of each frame of a shard of queries, float32 [N], in the order of its descriptors."""
    level: Floats = read_table(path, columns=["level"]).column("level").to_numpy()
    return level


_HIT = np.dtype([("frame", np.int64), ("video", np.int32), ("score", np.float32)])


def best_per_video(scores: Floats, videos: NDArray[np.int32]) -> NDArray[np.void]:
    """Return the best hit of each query frame in each video: `frame`, `video`, `score`, sorted by frame and video.

    `scores` float32 [Q, K] and `videos` int32 [Q, K] are those of the nearest frames; video −1 means none.
    """
    frame, column = np.nonzero(videos >= 0)
    video, score = videos[frame, column], scores[frame, column]
    order = np.lexsort((-score, video, frame))
    frame, video, score = frame[order], video[order], score[order]
    first = _run_starts(frame, video)
    hits = np.empty(int(first.sum()), _HIT)
    hits["frame"], hits["video"], hits["score"] = frame[first], video[first], score[first]
    return hits


def _drop_nearest_video(cosines: Floats, videos: NDArray[np.int32]) -> Floats:
    """Return cosines, greatest first, without those to the nearest video, which may be the copied one."""
    kept = np.where(videos == videos[:, :1], np.float32(-np.inf), cosines)
    return -np.sort(-kept, axis=1)


def _own_videos(
    frames: FrameDescriptors, queries: VideoIndex, references: VideoIndex, ids: Sequence[str]
) -> NDArray[np.int32]:
    """Return the position in `ids` of the video that each frame comes from, int32 [N]; −1 if it is not there."""
    numbers = {real_path(references.items[identity][0].path): number for number, identity in enumerate(ids)}
    own = np.full(len(frames.ids), -1, np.int32)
    for identity, rows in frames.rows_of_videos().items():
        own[rows] = numbers.get(real_path(queries.items[identity][0].path), -1)
    return own


def _check_disjoint(noise: VideoIndex, references: VideoIndex) -> None:
    if shared := noise.items.keys() & references.items.keys():
        raise InputError(
            f"search.noise={noise.root} and the references share {len(shared):,} ids, for instance {min(shared)}; "
            "noise must be videos that no query was copied from (if they are, index them from a table with other ids)"
        )


def _cut_at_videos(frames: FrameDescriptors, rows: int) -> Iterator[slice]:
    """Cut the frames into parts that end with a video; each but the last has `rows` rows or somewhat more."""
    start = stop = 0
    for video in frames.rows_of_videos().values():
        stop = video.stop
        if stop - start >= rows:
            yield slice(start, stop)
            start = stop
    if stop > start:
        yield slice(start, stop)


def _rank(
    frames: FrameDescriptors,
    level: Floats,
    hits: NDArray[np.void],
    references: Sequence[str],
    settings: FrameSearchSettings,
) -> pa.Table:
    """Return a table of the best pairs of each query, scored by their hits, with the columns of `CANDIDATE_SCHEMA`."""
    if not len(hits):
        return CANDIDATE_SCHEMA.empty_table()
    query_names, query = np.unique(np.array(frames.ids, object), return_inverse=True)
    # Of the panes of one moment, only the best counts.
    moment = np.unique(np.stack([query, frames.times[:, 0]], 1), axis=0, return_inverse=True)[1].ravel()
    at, pair = moment[hits["frame"]], query[hits["frame"]] * len(references) + hits["video"]
    order = np.lexsort((-hits["score"], at, pair))
    kept = order[_run_starts(at[order], pair[order])]
    kept = kept[np.lexsort((-hits["score"][kept], pair[kept]))]
    hits, starts = hits[kept], _run_starts(pair[kept])
    score, top = _aggregate(hits["score"], starts, settings), hits[starts]
    table = pa.table(
        [
            query_names[query[top["frame"]]],
            np.array(references, object)[top["video"]],
            score,
            top["score"] + settings.normalization_weight * level[top["frame"]],
            np.array(frames.panes, object)[top["frame"]],
            frames.times[top["frame"], 0],
        ],
        schema=CANDIDATE_SCHEMA,
    ).sort_by(BEST_FIRST)
    names = table.column("query_id").to_numpy(zero_copy_only=False)
    return table.filter(pa.array(_rank_in_run(_run_starts(names)) < settings.references_per_query))


def _aggregate(scores: Floats, starts: NDArray[np.bool_], settings: FrameSearchSettings) -> Floats:
    """Return the score of each run: its best hit, or the mean of its best few; negative and missing hits count 0."""
    if settings.aggregate == "best":
        return scores[starts]
    counted = np.where(_rank_in_run(starts) < settings.robust_frames, np.maximum(scores, 0), 0)
    return np.asarray(np.add.reduceat(counted, np.flatnonzero(starts)) / settings.robust_frames, np.float32)


def _run_starts(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each row differs from the one before in any column."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts


def _rank_in_run(starts: NDArray[np.bool_]) -> Numbers:
    """Number the rows of each run from 0."""
    return np.asarray(np.arange(len(starts)) - np.flatnonzero(starts)[np.cumsum(starts) - 1])


@dataclass(frozen=True, slots=True)
class VideoFrameSearch:
    """A search of the frames of videos: `video` int32 [N] is the position in `ids` of the video of each frame."""

    search: FrameSearch
    ids: tuple[str, ...]
    video: NDArray[np.int32]

    def nearest_of_others(
        self, queries: Floats, own: NDArray[np.int32], neighbours: int
    ) -> tuple[Floats, NDArray[np.int32]]:
        """Return cosines float32 [Q, K], greatest first, and videos int32 [Q, K], of the nearest frames.

        `own` int32 [Q] is the video of each query frame, whose frames are left out; −1 if it is not among `ids`. Where
        there are fewer than K frames, cosines are −inf and videos −1.
        """
        rows_of_own = np.bincount(self.video)[own[own >= 0]].max(initial=0)
        requested = max(neighbours, min(neighbours + int(rows_of_own), MAX_NEIGHBORS))
        cosines, rows = self.search.nearest(queries, requested)
        videos = np.full(rows.shape, -1, np.int32)
        videos[rows >= 0] = self.video[rows[rows >= 0]]
        videos[videos == own[:, None]] = -1
        kept = np.argsort(videos < 0, axis=1, kind="stable")[:, :neighbours]
        videos = np.take_along_axis(videos, kept, axis=1)
        return np.where(videos < 0, np.float32(-np.inf), np.take_along_axis(cosines, kept, axis=1)), videos


def load_frame_search(videos: VideoIndex, settings: FrameSearchSettings) -> VideoFrameSearch:
    """Return a search of the frames of an index.

    The two that were used last stay in memory, for the next shard of queries: inverted lists take longer to build than
    to search. `ListFrameSearch` says how much memory they need.
    """
    # The fingerprint is not enough: an index that was built again may have the same videos in other shards.
    state = digest_of(videos.fingerprint, sorted((i, shard) for i, (_, shard) in videos.items.items()))
    with _BUILD_LOCK:
        return _build_video_search(videos.root, state, settings.index == "exact", settings.lists_searched)


_BUILD_LOCK = Lock()  # threads that match shards side by side share one search instead of building one each


@lru_cache(maxsize=2)  # one of references and one of noise
def _build_video_search(root: Path, state: str, exact: bool, lists_searched: int) -> VideoFrameSearch:
    videos = VideoIndex.open(root)  # not a parameter, because `state` is what identifies its content
    names: list[str] = []
    counts: list[int] = []
    for shard in videos.shards:
        for identity, count in videos.frame_counts(shard):
            names.append(identity)
            counts.append(count)

    def blocks() -> Iterator[Floats]:
        return (videos.vectors(shard) for shard in videos.shards)

    search = build_frame_search(blocks, sum(counts), exact=exact, lists_searched=lists_searched)
    return VideoFrameSearch(search, tuple(names), np.repeat(np.arange(len(names), dtype=np.int32), counts))
