"""The stages of image matching: files in, files out, each skipping what an earlier run has done.

    plan → preprocess, describe (per shard) → finish     for queries and for references
    recall (per branch) → score (per shard of queries) → merge → report → summarise

The command line (`copytrace.images`) and the Prefect flow call these same functions in this order.
"""

from __future__ import annotations

from copytrace.image_stages.indexing import check, count_images, describe_shard, finish, plan, preprocess_shard, role_of
from copytrace.image_stages.matching import count_pairs, merge_scores, recall, score_shard, shards_of
from copytrace.image_stages.reporting import report, summarise_run
from copytrace.run_folder import MatchPaths

__all__ = [
    "MatchPaths",
    "check",
    "count_images",
    "count_pairs",
    "describe_shard",
    "finish",
    "merge_scores",
    "plan",
    "preprocess_shard",
    "recall",
    "report",
    "role_of",
    "score_shard",
    "shards_of",
    "summarise_run",
]
