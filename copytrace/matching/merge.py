"""Merging: one score per pair from the evidence of all branches, and the tables that users read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from configs.images import MergeSettings
from copytrace.matching.calibration import features_of, load_calibration
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.storage import read_table, write_csv, write_table

SCORE_DECIMALS = 9
MATCH_SCHEMA = EVIDENCE_SCHEMA.insert(2, pa.field("score", pa.float64()))
CSV_COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes", "crop_votes"),
    *("ratio_matches", "inliers", "coverage", "agreement", "mirrored", "negative", "transform", "crop_box"),
)


def merge(
    evidence: Sequence[Path],
    parquet: Path,
    csv: Path,
    settings: MergeSettings,
    *,
    query_paths: Mapping[str, str],
    reference_paths: Mapping[str, str],
    stamp: str,
) -> Path:
    """Score the pairs of all shards and write them best first, ties by ids, as Parquet and as CSV.

    Where queries and references share files, the pairs (a, b) and (b, a) are one: the better-scored one stays.
    """
    parts = [_score(read_table(path, schema=EVIDENCE_SCHEMA).to_pandas(), settings) for path in evidence]
    empty = EVIDENCE_SCHEMA.empty_table().to_pandas().assign(score=pd.Series(dtype="float64"))
    pairs = pd.concat([part for part in parts if len(part)] or [empty], ignore_index=True)
    pairs = pairs.sort_values(["score", "query_id", "reference_id"], ascending=[False, True, True], kind="stable")
    pairs = _drop_reversed_duplicates(pairs, query_paths, reference_paths)
    table = pa.Table.from_pandas(pairs[MATCH_SCHEMA.names], schema=MATCH_SCHEMA, preserve_index=False)
    table = table.replace_schema_metadata(None)
    write_csv(csv, _for_csv(table))
    return write_table(parquet, table, stamp=stamp)


def _score(evidence: pd.DataFrame, settings: MergeSettings) -> pd.DataFrame:
    if settings.rule == "sum":
        scores = evidence["branch_matches"].map(np.sum).to_numpy(np.float64)
        return evidence.assign(score=scores)
    probability = load_calibration(settings.calibration).probability(features_of(evidence))
    scored = evidence.assign(score=probability.round(SCORE_DECIMALS))
    return scored[scored["score"] >= settings.min_score]


def _drop_reversed_duplicates(
    pairs: pd.DataFrame, query_paths: Mapping[str, str], reference_paths: Mapping[str, str]
) -> pd.DataFrame:
    if not set(query_paths.values()) & set(reference_paths.values()):
        return pairs
    first, second = pairs["query_id"].map(query_paths), pairs["reference_id"].map(reference_paths)
    key = pd.DataFrame({"a": np.minimum(first, second), "b": np.maximum(first, second)}, index=pairs.index)
    return pairs[~key.duplicated()]


def _for_csv(table: pa.Table) -> pa.Table:
    columns = {}
    for name in CSV_COLUMNS:
        column = table.column(name)
        if pa.types.is_list(column.type):
            separator = "+" if name == "branches" else " "
            texts = [None if v is None else separator.join(_text(part) for part in v) for v in column.to_pylist()]
            column = pa.array(texts, pa.string())
        columns[name] = column
    return pa.table(columns)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.5g}"
