"""The best pairs of a finished run of video matching, with their similarity matrices computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from configs.videos import AlignmentSettings
from copytrace.alignment.align import SEGMENT_SCHEMA, Pair, compare_videos, read_pairs
from copytrace.alignment.segments import Segment
from copytrace.arrays import Floats, Times
from copytrace.checked_files import read_checked
from copytrace.index.video_index import VideoIndex
from copytrace.report.video_matches import PaneSegment, VideoMatch
from copytrace.run_folder import VideoRunFolder

MIN_SCORE_SHOWN = 0.01  # least score of a pair's second and further segments; the tables have all segments

Box = tuple[float, float, float, float]
Boxes = dict[tuple[str, str], dict[float, Box]]  # by video and pane, then by second


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Pairs with their segments, best first; each segment has the pane that shows it."""

    segments: dict[Pair, list[tuple[Segment, str]]]

    @classmethod
    def best(cls, folder: VideoRunFolder, limit: int) -> MatchedPairs:
        """Return the `limit` pairs whose best segment scores highest."""
        chosen: dict[Pair, list[tuple[Segment, str]]] = {}
        for row in read_checked(folder.segments, folder.merged, schema=SEGMENT_SCHEMA).to_pylist():  # the best first
            pair = (row["query_id"], row["ref_id"])
            if row["score"] >= MIN_SCORE_SHOWN if pair in chosen else len(chosen) < limit:
                box = (row["query_start"], row["query_end"], row["ref_start"], row["ref_end"])
                chosen.setdefault(pair, []).append((Segment(*box, row["score"], row["reversed"]), row["pane"]))
        return cls(chosen)

    def read(
        self, queries: VideoIndex, references: Path, folder: VideoRunFolder, rules: AlignmentSettings
    ) -> Iterator[VideoMatch]:
        """Yield the pairs as matches with their matrices, shard by shard of the queries."""
        shards = {pair: queries.shard_of(pair[0]) for pair in self.segments}
        ordered = sorted(self.segments, key=lambda pair: shards[pair])
        for shard, group in groupby(ordered, key=lambda pair: shards[pair]):
            boxes = _read_boxes(queries, shard)
            for batch in read_pairs(list(group), shard, queries.root, references, folder.noise(shard)):
                for pair, query, reference in batch:
                    matrix = compare_videos(query, reference, weight=rules.noise_weight, panes=rules.panes).matrix
                    found = [
                        PaneSegment(segment, pane, _boxes_at(matrix.query_times, boxes.get((pair[0], pane), {})))
                        for segment, pane in self.segments[pair]
                    ]
                    yield VideoMatch(*pair, found[0].segment.score, found, matrix)


def _read_boxes(queries: VideoIndex, shard: int) -> Boxes:
    boxes: Boxes = {}
    for row in queries.pane_boxes(shard).to_pylist():
        by_second = boxes.setdefault((row["id"], row["pane"]), {})
        by_second[row["start"]] = (row["x0"], row["y0"], row["x1"], row["y1"])
    return boxes


def _boxes_at(times: Times, boxes: dict[float, Box]) -> Floats:
    absent = (np.nan,) * 4
    return np.array([boxes.get(start, absent) for start in times[:, 0]], np.float32)
