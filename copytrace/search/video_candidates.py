"""Candidates of query videos: the references whose frames are most similar to theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.videos import FrameSearchSettings, VideoSettings
from copytrace.arrays import Floats
from copytrace.checked_files import read_checked
from copytrace.errors import InputError
from copytrace.index.media_index import check_model
from copytrace.index.video_index import FrameDescriptors, VideoIndex
from copytrace.run_folder import VideoRunFolder
from copytrace.search.cut_lists import note_cut
from copytrace.search.frame_search import FrameHits, place_of_least_variance
from copytrace.search.own_files import digest_of_shared_places
from copytrace.search.own_videos import OthersSearch
from copytrace.search.unedited_queries import read_unedited
from copytrace.search.vector_search import MAX_NEIGHBORS, noise_level
from copytrace.search.video_copies import copies_of_nearest
from copytrace.search.video_ranking import (
    BEST_FIRST,
    CANDIDATE_SCHEMA,
    best_per_video,
    distinct_frames,
    hits_in_range,
    rank_pairs,
)
from copytrace.step import Step, StepRun
from copytrace.storage import resolve_path
from copytrace.tables import write_table

QUERY_ROWS = 8192  # query frames searched at a time, up to the end of a video; each search reads all references
WIDER = 8  # times as many hits are looked for where copies leave no room for noise
SOME, ALL = 1, 2  # hits of a query frame that copies of its nearest video take

NOISE_SCHEMA = pa.schema([("id", pa.string()), ("level", pa.float32())])


def search_frames(shard: int, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings) -> Path:
    """Write the candidates of a shard of queries, best first, with the noise level of each query frame.

    A frame's score is its cosine minus `normalization_weight` times its noise level: the mean of its highest cosines
    to frames that it was certainly not copied from (score normalization, VSC 2022). A video is never its own candidate,
    nor its own noise, and copies of the nearest video are no noise either. Queries that `detect_editing` found to be
    unedited have no candidates. Returns the file of the candidates.

    Raises `ModelMismatchError` if other models made the indexes, and `InputError` if the noise index shares an id with
    the references, since its videos could then be the copied ones.
    """
    rules = settings.search
    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    noise = VideoIndex.open(resolve_path(rules.noise)) if rules.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.provenance["descriptor"])
    path, noise_path = folder.candidates(shard), folder.noise(shard)
    # The ids of the shard count too: a video that was removed and added again lies in another shard of an index with
    # the same fingerprint.
    places = [digest_of_shared_places(query_index, index) for index in (reference_index, noise) if index]
    indexes = [query_index.fingerprint, reference_index.fingerprint, noise and noise.fingerprint, places]
    unedited = read_unedited(folder, shard, settings)
    made_from = [
        shard,
        query_index.ids_in(shard),
        indexes,
        rules.model_dump(),
        *([sorted(unedited)] if unedited else []),
    ]
    step = Step.of("search frames", path, noise_path, made_from=made_from)
    if step.is_done():
        return path
    if noise:
        _check_disjoint(noise, reference_index)
    frames = query_index.frames(shard)
    search = _ShardSearch.of(frames, query_index, reference_index, noise, rules)
    levels, candidates = [np.zeros(0, np.float32)], [CANDIDATE_SCHEMA.empty_table()]
    cut: set[str] = set()
    with step.run(len(frames.ids), "frames") as work:
        for video_rows in _cut_at_videos(frames, QUERY_ROWS):
            part = frames.part(video_rows)
            level, hits, crowds = search.find_hits(video_rows, work)
            levels.append(level)
            hits = hits[~np.isin(np.array(part.ids, object), list(unedited))[hits["frame"]]] if unedited else hits
            ranked, left_out = rank_pairs(part, level, hits, search.references.videos.ids, rules)
            candidates.append(ranked)
            cut |= left_out | _without_room(part.ids, crowds)
        note_cut(work, cut)
        write_table(noise_path, pa.table([frames.ids, np.concatenate(levels)], schema=NOISE_SCHEMA))
        write_table(path, pa.concat_tables(candidates).sort_by(BEST_FIRST))
    return path


@dataclass(frozen=True, slots=True)
class _ShardSearch:
    """The search of a shard's query frames."""

    frames: FrameDescriptors
    references: OthersSearch
    noise: OthersSearch | None
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
        dropped = place_of_least_variance(noise or references) if rules.drop_least_variance else None
        return cls(
            frames,
            OthersSearch(frames, queries, references, rules, dropped),
            OthersSearch(frames, queries, noise, rules, dropped) if noise else None,
            queries.provenance["typical_noise"] if rules.typical_noise is None else rules.typical_noise,
            rules,
        )

    def find_hits(self, video_rows: slice, work: StepRun) -> tuple[Floats, NDArray[np.void], NDArray[np.int8]]:
        """Return the noise level of each frame of `video_rows`, which are whole videos, their hits, and `_crowds`."""
        levels, hits, crowds = [], [], []
        kept = self._kept_frames(video_rows)
        for start in range(video_rows.start, video_rows.stop, QUERY_ROWS):
            rows = slice(start, min(start + QUERY_ROWS, video_rows.stop))
            nearest, copies = self._nearest(rows)
            level = self._noise_level(rows, nearest.cosines, copies)
            scores = nearest.cosines - self.rules.normalization_weight * level[:, None]
            found = best_per_video(scores, nearest.videos, copies)
            if self.rules.min_score is not None:
                found = hits_in_range(
                    self.references, rows, found, scores, self.rules.normalization_weight * level, self.rules.min_score
                )
            if self.rules.duplicate_likeness is not None:
                found = found[kept[rows.start - video_rows.start + found["frame"]]]
            found["frame"] += start - video_rows.start
            levels.append(level)
            hits.append(found)
            crowds.append(_crowds(nearest, copies))
            work.advance(len(level))
        return np.concatenate(levels), np.concatenate(hits), np.concatenate(crowds)

    def _kept_frames(self, rows: slice) -> NDArray[np.bool_]:
        """Return which frames of whole videos are searched for candidates, bool [N]."""
        likeness = self.rules.duplicate_likeness
        if likeness is None:
            return np.ones(rows.stop - rows.start, bool)
        part = self.frames.part(rows)
        return np.concatenate(
            [distinct_frames(part.vectors[video], likeness) for video in part.rows_of_videos().values()]
        )

    def _nearest(self, rows: slice) -> tuple[FrameHits, NDArray[np.bool_]]:
        """Return the hits of query frames, and which are in the nearest video or in a copy of it."""
        wanted = self.rules.hits_per_frame
        hits = self.references.nearest(rows, wanted)
        if self.noise and not self.rules.list_copies:
            return hits, np.zeros(hits.videos.shape, bool)  # they are not needed
        copies = copies_of_nearest(self.references.videos, hits)
        no_room = copies.sum(axis=1) > wanted - self.rules.normalization_neighbours
        crowded = np.flatnonzero((_crowds(hits, copies) > 0) & no_room)
        if len(crowded) and wanted < MAX_NEIGHBORS:
            wanted = min(WIDER * wanted, MAX_NEIGHBORS)
            hits = hits.widen(wanted)
            hits[crowded] = self.references.nearest(rows, wanted)[crowded]
            copies = copies_of_nearest(self.references.videos, hits)
        return hits, copies

    def _noise_level(self, rows: slice, cosines: Floats, copies: NDArray[np.bool_]) -> Floats:
        neighbours = self.rules.normalization_neighbours
        if self.noise:
            return noise_level(self.noise.nearest(rows, neighbours).cosines, neighbours, typical=self.typical)
        others = -np.sort(-np.where(copies, np.float32(-np.inf), cosines), axis=1)
        level = noise_level(others, neighbours, typical=self.typical)
        # Among few references, the nearest frames do not show how similar unrelated ones can be.
        return level if self.typical is None else np.maximum(level, np.float32(self.typical))


def read_video_candidates(path: Path) -> list[tuple[str, str, float]]:
    """Return query, reference and score of each candidate pair."""
    table = read_checked(path, columns=["query_id", "reference_id", "score"])
    return list(zip(*(table.column(n).to_pylist() for n in range(3)), strict=True))


def read_noise_levels(path: Path) -> Floats:
    """Return the noise level of each frame of a shard of queries, float32 [N], in the order of its descriptors."""
    record = path.parents[1] / "candidates" / f"{path.stem}.json"  # of the step that wrote both
    level: Floats = read_checked(path, record, columns=["level"]).column("level").to_numpy()
    return level


def _crowds(hits: FrameHits, copies: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return how much of each query frame's hits copies of its nearest video take, int8 [N]: 0, `SOME` or `ALL`."""
    several = (copies & (hits.videos != hits.videos[:, :1])).any(axis=1)
    return np.where(several, np.where(copies.all(axis=1), ALL, SOME), 0).astype(np.int8)


def _without_room(ids: Sequence[str], crowds: NDArray[np.int8]) -> set[str]:
    """Return the query videos that may have more copies than were found: no crowded frame had a hit to spare."""
    full, with_room = ({ids[int(row)] for row in np.flatnonzero(crowds == crowd)} for crowd in (ALL, SOME))
    return full - with_room


def _check_disjoint(noise: VideoIndex, references: VideoIndex) -> None:
    states = (noise.items.digest, references.items.digest)
    if shared := _shared_ids(noise.root, references.root, states):
        raise InputError(
            f"search.noise={noise.root} and the references share {len(shared):,} ids, for instance {min(shared)}; "
            "noise must be videos that no query was copied from (if they are, index them from a table with other ids)"
        )


@lru_cache(maxsize=2)
def _shared_ids(noise: Path, references: Path, states: tuple[str, str]) -> list[str]:
    return VideoIndex.open(noise).items.ids_shared_with(VideoIndex.open(references).items)


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
