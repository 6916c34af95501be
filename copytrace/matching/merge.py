"""Merging: the score of each pair from its evidence, and the tables of matches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from configs.images import ImageSettings, MergeSettings
from copytrace.index.image_index import ImageIndex
from copytrace.index.media_index import remove_stale_shards
from copytrace.matching.calibration import calibration_file, features_of, load_calibration
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.run_folder import ImageRunFolder
from copytrace.step import Step, fingerprint_of
from copytrace.storage import digest_of_file, read_table, write_csv, write_table

SCORE_DECIMALS = 9
MATCH_SCHEMA = EVIDENCE_SCHEMA.insert(2, pa.field("score", pa.float64()))
CSV_COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes", "crop_votes"),
    *("ratio_matches", "inliers", "coverage", "agreement", "mirrored", "negative", "transform", "crop_box"),
)


def merge_matches(queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv`, best first and then by ids; return the former.

    If queries and references share files, only the better of the pairs (a, b) and (b, a) is kept. Files that an earlier
    run left behind for shards that no longer exist are deleted.
    """
    if settings.merge.rule == "calibrated":
        load_calibration(settings.merge.calibration)  # raises early if the file cannot be used
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    shards, rules = query_index.shards, settings.merge
    remove_stale_shards(folder.evidence(0).parent, shards)
    evidence = [folder.evidence(shard) for shard in shards]
    parquet, csv = folder.matches, folder.matches.with_suffix(".csv")
    made_from = [
        [fingerprint_of(path) for path in evidence],
        rules.model_dump(exclude={"threshold"}),
        digest_of_file(calibration_file(rules.calibration)),
    ]
    step = Step.of("merge", parquet, csv, made_from=made_from, record=folder.work / "merge.json")
    if step.is_done():
        return parquet
    with step.run(len(evidence), "shards") as work:
        parts = [_score(read_table(path, schema=EVIDENCE_SCHEMA).to_pandas(), rules) for path in evidence]
        empty = EVIDENCE_SCHEMA.empty_table().to_pandas().assign(score=pd.Series(dtype="float64"))
        pairs = pd.concat([part for part in parts if len(part)] or [empty], ignore_index=True)
        pairs = pairs.sort_values(["score", "query_id", "reference_id"], ascending=[False, True, True], kind="stable")
        pairs = _drop_reversed_duplicates(pairs, query_index.paths, reference_index.paths)
        table = pa.Table.from_pandas(pairs[MATCH_SCHEMA.names], schema=MATCH_SCHEMA, preserve_index=False)
        write_csv(csv, _csv_table(table))
        write_table(parquet, table.replace_schema_metadata(None))
        work.advance(len(evidence))
    return parquet


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


def _csv_table(table: pa.Table) -> pa.Table:
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
