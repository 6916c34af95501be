"""Copies among the references: videos that show the same as the one that is nearest to a query frame.

They are no noise, and none of them takes another's place among the candidates. That two videos have a frame in common
does not make them copies: black frames, logos and titles are found in many. So the seconds around it must agree too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from copytrace.arrays import Floats, Numbers
from copytrace.search.frame_search import FrameHits, VideoFrameSearch

COPY_LIKENESS = 0.9  # least cosine of two reference frames that show the same
OFFSETS = np.array([side * (1 << step) for step in range(7) for side in (-1, 1)])  # frames from the common one
LEAST_SHARE = 2 / 3  # of the frames at these offsets that must be alike
QUERIES_AT_ONCE = 256
PAIRS_AT_ONCE = 1 << 15  # of frames: two vectors each

_NO_HIT = np.iinfo(np.int64).max
_WIDEST = np.arccos(COPY_LIKENESS)


class FrameVideos(NamedTuple):
    """The P pairs of a query frame and a video among the frames nearest to it, in order of frame and video.

    `frame`, `video` and `column` are int64 [P]; the latter is that of the nearest frame of the video. `pair` int64
    [Q, K] is the number of the pair of each hit; −1 where there is none.
    """

    frame: Numbers
    video: Numbers
    column: Numbers
    pair: Numbers


def frame_videos(videos: NDArray[np.int32]) -> FrameVideos:
    """Return the pairs of frame and video in `videos` int32 [Q, K], which are those of hits, nearest first."""
    # One number for a hit, so that each row is sorted by one comparison.
    hits = videos.astype(np.int64) * videos.shape[1] + np.arange(videos.shape[1])
    hits[videos < 0] = _NO_HIT
    hits.sort(axis=1)
    frame, place = np.nonzero(hits < _NO_HIT)
    video, column = np.divmod(hits[frame, place], videos.shape[1])
    first = np.ones(len(frame), bool)
    first[1:] = (frame[1:] != frame[:-1]) | (video[1:] != video[:-1])
    pair = np.full(videos.shape, -1, np.int64)
    pair[frame, column] = np.cumsum(first) - 1
    return FrameVideos(frame[first], video[first], column[first], pair)


def copies_of_nearest(search: VideoFrameSearch, hits: FrameHits) -> NDArray[np.bool_]:
    """Return which hits are in the video that is nearest to their query frame, or in a copy of it, bool [Q, K].

    A copy has a frame like the nearest one, and around it most of its frames are like those around the nearest one.
    """
    parts = [np.zeros((0, hits.videos.shape[1]), bool)]
    for start in range(0, len(hits.videos), QUERIES_AT_ONCE):
        parts.append(_copies(search, hits[start : start + QUERIES_AT_ONCE]))
    return np.concatenate(parts)


def _copies(search: VideoFrameSearch, hits: FrameHits) -> NDArray[np.bool_]:
    frame, video, column, pair = frame_videos(hits.videos)
    copy = video == hits.videos[frame, 0]
    # Two reference frames cannot be alike if one of them is much farther from the query frame than the other.
    angle = np.arccos(np.clip(hits.cosines, -1, 1))
    doubtful = np.flatnonzero(~copy & (angle[frame, column] - angle[frame, 0] <= _WIDEST + 1e-2))
    nearest, other = hits.rows[frame[doubtful], 0], hits.rows[frame[doubtful], column[doubtful]]
    pairs, place = np.unique(np.stack([nearest, other], axis=1), axis=0, return_inverse=True)
    alike = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        alike[start : start + PAIRS_AT_ONCE] = _are_alike(search, pairs[start : start + PAIRS_AT_ONCE])
    chosen = np.flatnonzero(alike)
    step = PAIRS_AT_ONCE // len(OFFSETS)
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        alike[some] = _agree_around(search, pairs[some])
    copy[doubtful] = alike[place.ravel()]
    return np.asarray((pair >= 0) & (copy[pair] if len(copy) else False))


def _are_alike(search: VideoFrameSearch, pairs: Numbers) -> NDArray[np.bool_]:
    """Return which of P pairs of frames, int64 [P, 2], show the same, bool [P]."""
    rows, place = np.unique(pairs, return_inverse=True)
    vectors: Floats = search.vectors.take(rows)
    place = place.reshape(pairs.shape)
    cosines = np.einsum("pd,pd->p", vectors[place[:, 0]], vectors[place[:, 1]])
    return np.asarray(cosines >= COPY_LIKENESS)


def _agree_around(search: VideoFrameSearch, pairs: Numbers) -> NDArray[np.bool_]:
    """Return around which pairs of frames, int64 [P, 2], most frames of their videos show the same, bool [P]."""
    video = np.searchsorted(search.starts, pairs, side="right") - 1
    around = pairs[:, None, :] + OFFSETS[:, None]
    there = ((around >= search.starts[video][:, None]) & (around < search.starts[video + 1][:, None])).all(axis=2)
    alike = np.zeros(there.shape, bool)
    alike[there] = _are_alike(search, around[there])
    return np.asarray(alike.sum(axis=1) >= LEAST_SHARE * there.sum(axis=1))
