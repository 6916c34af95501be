"""Merging: the score of each pair from its evidence, and the tables of matches.

The calibrated score is the probability that a pair is a copy, given the evidence of all branches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

import models
from configs.images import ImageSettings, MergeSettings
from copytrace.arrays import Doubles
from copytrace.errors import ConfigError
from copytrace.index.image_index import ImageIndex
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.step import Step, fingerprint_of
from copytrace.storage import digest_of_file, read_table, remove_stale_shards, resolve_path, write_csv, write_table

SHIPPED = Path(models.__file__).parent / "weights" / "image_calibration.json"

# Medians over 263 edited photos of what the best of 210 unrelated references reaches.
RIVAL_INLIERS = 3
RIVAL_LOG_INLIERS = float(np.log1p(RIVAL_INLIERS))
RIVAL_LOG_VOTES = float(np.log1p(2.8))
RIVAL_SIMILARITY = 0.099  # score-normalized cosine

SURE_LOGIT = 5.0  # a probability of 0.9933

FEATURES = (
    "log_inliers",
    "agreement",
    "coverage",
    "log_votes",
    "log_vote_lead",
    "log_inlier_lead",
    "similarity",
    "normalized_similarity",
    "similarity_lead",
    "branches",
)

SCORE_DECIMALS = 9
MATCH_SCHEMA = EVIDENCE_SCHEMA.insert(2, pa.field("score", pa.float64()))
CSV_COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes", "crop_votes"),
    *("ratio_matches", "inliers", "coverage", "agreement", "mirrored", "negative", "transform", "crop_box"),
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic model over `FEATURES`; `weights` float64 [F] and `bias` apply to features that are not scaled."""

    weights: Doubles
    bias: float

    def probability(self, features: Doubles) -> Doubles:
        """Return float64 [N] in 0..1 for features float64 [N, F]."""
        return probability(features @ self.weights + self.bias)


def probability(logit: Doubles) -> Doubles:
    """Return 1 / (1 + exp(−l)), where l grows only logarithmically beyond ±`SURE_LOGIT`.

    So a score claims no more certainty than thousands of training pairs can show, and pairs with overwhelming evidence
    keep their order instead of all being rounded to 1.
    """
    beyond = np.log1p(np.maximum(np.abs(logit) - SURE_LOGIT, 0))
    return np.asarray(1 / (1 + np.exp(-np.sign(logit) * (np.minimum(np.abs(logit), SURE_LOGIT) + beyond))))


def calibration_file(name: str) -> Path:
    """Return the calibration file for a value of `merge.calibration`: "shipped", a path or `s3://…`."""
    return SHIPPED if name == "shipped" else resolve_path(name)


def load_calibration(name: str = "shipped") -> Calibration:
    """Read a calibration file: JSON with `weights` and `bias`. Raises `ConfigError` if it cannot be used."""
    path = calibration_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = np.array([content["weights"][feature] for feature in FEATURES], np.float64)
        bias = float(content["bias"])
        if set(content["weights"]) != set(FEATURES) or not np.isfinite([*weights, bias]).all():
            raise ValueError("its weights are not finite numbers for this version's features")
        return Calibration(weights, bias)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no calibration file at {path}; give merge.calibration=shipped, or an existing path"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the calibration file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a calibration of this version ({error}); fit a new one with copytrace calibrate"
        ) from error


def features_of(evidence: pd.DataFrame) -> Doubles:
    """Return the `FEATURES` of evidence rows, float64 [N, F]; the rows must include all pairs of each query.

    Inliers count only beyond the number that unrelated pairs reach by chance. Below it, agreement and coverage are 0,
    because two points always agree.

    A lead compares a pair with the best other reference of the same query: many weak matches with one reference mean
    more if no other has nearly as many. The rival is at least as good as the best of many unrelated references, since a
    small collection may not have such a rival. A lead is never negative.
    """
    inliers = np.log1p(evidence["inliers"].to_numpy(np.float64))
    votes = np.log1p(evidence[["votes", "crop_votes"]].max(axis=1).fillna(0).to_numpy(np.float64))
    normalized = np.nan_to_num(evidence["normalized_similarity"].to_numpy(np.float64), nan=0.0)
    query = evidence["query_id"]
    beyond_chance = inliers > RIVAL_LOG_INLIERS
    columns = {
        "log_inliers": np.maximum(inliers - RIVAL_LOG_INLIERS, 0.0),
        "agreement": beyond_chance * evidence["agreement"].fillna(0).to_numpy(np.float64),
        "coverage": beyond_chance * np.sqrt(evidence["coverage"].fillna(0).to_numpy(np.float64)),
        "log_votes": votes,
        "log_vote_lead": _lead(votes, query, RIVAL_LOG_VOTES),
        "log_inlier_lead": _lead(inliers, query, RIVAL_LOG_INLIERS),
        "similarity": np.nan_to_num(evidence["similarity"].to_numpy(np.float64), nan=0.0),
        "normalized_similarity": normalized,
        "similarity_lead": _lead(normalized, query, RIVAL_SIMILARITY),
        "branches": evidence["branches"].map(len).to_numpy(np.float64),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _lead(values: Doubles, query: pd.Series[str], rival: float) -> Doubles:
    """Return how far each value exceeds both `rival` and the greatest other value of its query; at least 0."""
    frame = pd.DataFrame({"query": query.to_numpy(), "value": values})
    by_query = frame.groupby("query", sort=False)["value"]
    greatest = by_query.transform("max").to_numpy()
    second = by_query.transform(lambda group: group.nlargest(2).iloc[-1] if len(group) > 1 else 0.0).to_numpy()
    return np.maximum(values - np.maximum(np.where(values == greatest, second, greatest), rival), 0)


def merge_matches(queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv`, best first and then by ids; return the former.

    If queries and references share files, only the better of the pairs (a, b) and (b, a) is kept. Files that an earlier
    run left behind for shards that no longer exist are deleted.
    """
    if settings.merge.rule == "calibrated":
        load_calibration(settings.merge.calibration)  # raises early if the file cannot be used
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    shards, rules = query_index.shards, settings.merge
    for file in (folder.evidence(0), *(folder.candidates(branch, 0) for branch in BRANCHES)):
        remove_stale_shards(file.parent, shards)
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
    columns = (pairs["query_id"], query_paths), (pairs["reference_id"], reference_paths)
    first, second = (column.map({i: paths[i] for i in column.unique()}) for column, paths in columns)
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
