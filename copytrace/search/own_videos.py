"""Search of an index for the frames of queries, in which no video finds the file that it is itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings
from copytrace.arrays import Floats, Numbers
from copytrace.index.video_index import FrameDescriptors, VideoIndex
from copytrace.search.frame_search import FrameHits, load_frame_search
from copytrace.search.mapped_vectors import drop_number
from copytrace.storage import file_identity


class OthersSearch:
    """A search of an index for frames of query videos; a reference that is the query's own file is left out.

    A file counts as the query's own under all of its names. Only references that are found are looked up on disk, since
    to look up all of a large index takes longer than to search it.
    """

    def __init__(
        self,
        frames: FrameDescriptors,
        queries: VideoIndex,
        searched: VideoIndex,
        settings: FrameSearchSettings,
        dropped: int | None = None,
    ) -> None:
        self.videos = load_frame_search(searched, settings, dropped)
        self._vectors = drop_number(frames.vectors, dropped)
        self._frames, self._queries, self._searched = frames, queries, searched
        self._rows = frames.rows_of_videos()
        self._own: dict[str, list[int]] = {}
        self._identities: dict[int, str] = {}

    def nearest(self, rows: slice, neighbours: int) -> FrameHits:
        """Return the frames nearest to the query frames `rows`, which are not of the same file."""
        hits = self.videos.nearest_of_others(self._vectors[rows], self._own_in(rows), neighbours)
        for query, part in self._parts(rows):
            here = slice(part.start - rows.start, part.stop - rows.start)
            while same := self._same_file(query, hits.videos[here]):
                self._own[query] += same
                hits[here] = self.videos.nearest_of_others(self._vectors[part], self._own_in(part), neighbours)
        return hits

    def best_of_videos(self, frames: Numbers) -> Floats:
        """Return the greatest cosine of each query frame `frames` int64 [Q] in each video of other files, [Q, V].

        It is −inf for a video of the same file.
        """
        best = self.videos.best_of_videos(self._vectors[frames])
        own = self._own_in(slice(int(frames.min()), int(frames.max()) + 1))[frames - frames.min()]
        row, column = np.nonzero(own >= 0)
        best[row, own[row, column]] = -np.inf
        return best

    def _own_in(self, rows: slice) -> NDArray[np.int32]:
        known = [(part, self._known(query)) for query, part in self._parts(rows)]
        own = np.full((rows.stop - rows.start, max((len(videos) for _, videos in known), default=0)), -1, np.int32)
        for part, videos in known:
            own[part.start - rows.start : part.stop - rows.start, : len(videos)] = videos
        return own

    def _parts(self, rows: slice) -> Iterator[tuple[str, slice]]:
        """Yield the query videos that have frames in `rows`, with these frames."""
        for query, whole in self._rows.items():
            part = slice(max(whole.start, rows.start), min(whole.stop, rows.stop))
            if part.start < part.stop:
                yield query, part

    def _known(self, query: str) -> list[int]:
        """Return the references that are known to be the same file: at first, one of the same id and path."""
        if query not in self._own:
            same = query in self._searched.items and self._searched.paths[query] == self._queries.paths[query]
            position = self.videos.position_of(query) if same else -1
            self._own[query] = [position] if position >= 0 else []
        return self._own[query]

    def _same_file(self, query: str, found: NDArray[np.int32]) -> list[int]:
        own = file_identity(self._queries.paths[query])
        return [video for video in np.unique(found[found >= 0]).tolist() if self._identity(video) == own]

    def _identity(self, video: int) -> str:
        if video not in self._identities:
            self._identities[video] = file_identity(self._searched.paths[self.videos.ids[video].as_py()])
        return self._identities[video]
