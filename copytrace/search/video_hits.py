"""Hits of query frames in reference videos: the best of each frame in each video, and which frames count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats
from copytrace.search.own_videos import OthersSearch
from copytrace.search.video_copies import frame_videos

FRAMES_AT_ONCE = 256  # query frames compared at a time with all videos

HIT = np.dtype([("frame", np.int64), ("video", np.int32), ("score", np.float32), ("copy", np.bool_)])


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
