"""The stages of video matching: files in, files out, each skipping what an earlier run has done.

    plan → describe (per shard) → finish                       for queries and for references
    search → align (both per shard of queries) → merge → report → summarise

The command line (`copytrace.videos`) and the Prefect flow call these same functions in this order.
"""

from __future__ import annotations

from copytrace.video_stages.indexing import check, count_videos, describe_shard, finish, plan
from copytrace.video_stages.matching import (
    align_shard,
    count_frames,
    count_pairs,
    merge_segments,
    search_shard,
    shards_of,
)
from copytrace.video_stages.paths import VideoMatchPaths
from copytrace.video_stages.reporting import report, summarise_run

__all__ = [
    "VideoMatchPaths",
    "align_shard",
    "check",
    "count_frames",
    "count_pairs",
    "count_videos",
    "describe_shard",
    "finish",
    "merge_segments",
    "plan",
    "report",
    "search_shard",
    "shards_of",
    "summarise_run",
]
