"""Hits of query frames in reference videos, and their ranking: the pairs of each query, best first, and which are kept.

A pair is scored by its best hits, among which each moment of the query counts once. A query keeps the references of its
best pairs, and besides them up to `MOST_COPIES` references that are copies of these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.arrays import Doubles, Floats, Numbers
from copytrace.index.video_index import FrameDescriptors
from copytrace.search.own_videos import OthersSearch
from copytrace.search.video_copies import frame_videos

FRAMES_AT_ONCE = 256  # query frames compared at a time with all videos
MOST_COPIES = 64  # references of a query, beyond `references_per_query`, that are copies of others

HIT = np.dtype([("frame", np.int64), ("video", np.int32), ("score", np.float32), ("copy", np.bool_)])
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


def best_per_video(scores: Floats, videos: NDArray[np.int32], copies: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return the best hit of each query frame in each video: `frame`, `video`, `score`, `copy`, by frame and video.

    `scores` float32 [Q, K], greatest first, `videos` int32 [Q, K] and `copies` bool [Q, K] are those of the nearest
    frames; video −1 means none. See `copies_of_nearest`.
    """
    frame, video, column, _ = frame_videos(videos)
    hits = np.empty(len(frame), HIT)
    hits["frame"], hits["video"] = frame, video
    hits["score"], hits["copy"] = scores[frame, column], copies[frame, column]
    return hits


def hits_in_range(
    search: OthersSearch, rows: slice, found: NDArray[np.void], scores: Floats, level: Floats, least: float
) -> NDArray[np.void]:
    """Return the hits of query frames `rows` that score above `least`.

    `found` are the hits of `best_per_video` among the K nearest frames, whose scores are `scores` float32 [Q, K].
    `level` float32 [Q] is what was taken from the cosines of each query frame. Where the nearest frames do not reach
    down to `least`, the frame is compared with all videos (VSC2022's winners).
    """
    beyond = np.flatnonzero(scores[:, -1] > least)
    parts = [found[(found["score"] > least) & ~np.isin(found["frame"], beyond)]]
    for start in range(0, len(beyond), FRAMES_AT_ONCE):
        frames = beyond[start : start + FRAMES_AT_ONCE]
        best = search.best_of_videos(rows.start + frames) - level[frames, None]
        frame, video = np.nonzero(best > least)
        hits = np.zeros(len(frame), HIT)
        hits["frame"], hits["video"], hits["score"] = frames[frame], video, best[frame, video]
        parts.append(hits)
    return np.concatenate(parts)


def distinct_frames(vectors: Floats, likeness: float) -> NDArray[np.bool_]:
    """Return which frames of a video, float32 [N, D] unit vectors, remain if near duplicates are dropped, bool [N].

    Frames are taken in the order of their mean cosine to the others, the highest first; each that is still there drops
    those whose cosine to it exceeds `likeness` (the descriptor track of VSC2022's winners).
    """
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0)
    kept = np.ones(len(vectors), bool)
    for frame in np.argsort(-cosines.mean(axis=0), kind="stable"):
        if kept[frame]:
            kept &= cosines[frame] <= likeness
    return kept


def rank_pairs(
    frames: FrameDescriptors,
    level: Floats,
    hits: NDArray[np.void],
    references: pa.LargeStringArray,
    settings: FrameSearchSettings,
) -> tuple[pa.Table, set[str]]:
    """Return the best pairs of each query, scored by their hits, and the queries of which copies were left out.

    `hits` are those of `frames`, as `best_per_video` returns them, and `level` float32 [N] is the noise level of each
    frame. `references` [R] are the ids of the videos that hits name by their numbers. The table has the columns of
    `CANDIDATE_SCHEMA`.
    """
    if not len(hits):
        return CANDIDATE_SCHEMA.empty_table(), set()
    query = np.unique(np.array(frames.ids, object), return_inverse=True)[1]
    pair = query[hits["frame"]] * len(references) + hits["video"]
    counted = _best_of_moments(frames.times[:, 0], query, pair, hits)
    starts = _run_starts(pair[counted])
    best = counted[starts]  # the best hit of each pair; pairs ascend
    scores = _aggregate(hits["score"][counted], starts, settings)
    table = _table_of_pairs(frames, level, hits[best], references, scores, settings.normalization_weight)
    names, number = table.column("query_id").to_numpy(zero_copy_only=False), table.column("number").to_numpy()
    starts, limit = _run_starts(names), settings.references_per_query or len(table)
    table = table.drop_columns("number")
    if not settings.list_copies:
        return table.filter(pa.array(_rank_in_run(starts) < limit)), set()
    row_of_pair = np.empty_like(number)
    row_of_pair[number] = np.arange(len(number))
    rows = row_of_pair[np.searchsorted(pair[best], pair[hits["copy"]])]
    kept, cut = _choose(starts, hits["frame"][hits["copy"]], rows, limit)
    return table.filter(pa.array(kept)), set(names[cut].tolist())


def _best_of_moments(seconds: Doubles, query: Numbers, pair: Numbers, hits: NDArray[np.void]) -> Numbers:
    """Return which hits count, by pair and then best first: of the panes of a moment, only the best one's."""
    moment = np.unique(np.stack([query, seconds], 1), axis=0, return_inverse=True)[1].ravel()[hits["frame"]]
    order = np.lexsort((-hits["score"], moment, pair))
    kept = order[_run_starts(moment[order], pair[order])]
    return np.asarray(kept[np.lexsort((-hits["score"][kept], pair[kept]))])


def _table_of_pairs(
    frames: FrameDescriptors,
    level: Floats,
    best: NDArray[np.void],
    references: pa.LargeStringArray,
    scores: Floats,
    noise_weight: float,
) -> pa.Table:
    """Return the pairs whose `best` hits are given, best first, with the `number` of each among these hits."""
    frame = best["frame"]
    return pa.table(
        [
            np.array(frames.ids, object)[frame],
            references.take(pa.array(best["video"])).cast(pa.string()),
            scores,
            best["score"] + noise_weight * level[frame],
            np.array(frames.panes, object)[frame],
            frames.times[frame, 0],
            np.arange(len(best)),
        ],
        schema=CANDIDATE_SCHEMA.append(pa.field("number", pa.int64())),
    ).sort_by(BEST_FIRST)


def _choose(
    starts: NDArray[np.bool_], frames: Numbers, rows: Numbers, limit: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of N pairs, sorted by query and then best first, are kept: `limit` per query, and copies of these.

    Also return which copies are left out because they are too many.

    `frames` and `rows` int64 [C] say which pairs share a frame by a copy: those of one frame are copies of one another.
    Of them, only the best takes a place among the `limit`.
    """
    first_of_frame = np.full(frames.max(initial=-1) + 1, len(starts))
    np.minimum.at(first_of_frame, frames, rows)
    copied = np.arange(len(starts))
    np.minimum.at(copied, rows, first_of_frame[frames])
    is_copy = copied < np.arange(len(starts))
    place = _count_before(~is_copy, starts)
    kept = place[copied] < limit
    listed = kept & is_copy
    cut = listed & (_count_before(listed, starts) >= MOST_COPIES)
    return np.asarray(kept & ~cut), np.asarray(cut)


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


def _count_before(counted: NDArray[np.bool_], starts: NDArray[np.bool_]) -> Numbers:
    """Return for each row how many rows before it in its run are counted."""
    before: Numbers = np.cumsum(counted) - counted
    return np.asarray(before - before[np.flatnonzero(starts)][np.cumsum(starts) - 1])
