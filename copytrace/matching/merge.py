"""Merging: the score of each pair from its evidence, and the tables of matches.

The calibrated score is the probability that a pair is a copy, given the evidence of all branches. It stays below 0.1
where only the likeness of two pictures speaks for a copy, and no points that agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import models
from configs.images import ImageSettings, MergeSettings
from copytrace.arrays import Doubles
from copytrace.errors import ConfigError
from copytrace.index.image_index import ImageIndex
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.run_folder import BRANCHES, ImageRunFolder
from copytrace.step import Step, fingerprint_of
from copytrace.storage import (
    digest_of_file,
    file_identity,
    read_table,
    remove_stale_shards,
    resolve_path,
    write_csv,
    write_table,
)

SHIPPED = Path(models.__file__).parent / "weights" / "image_calibration.json"

# Medians over 263 edited photos of what the best of 210 unrelated references reaches.
RIVAL_INLIERS = 3
RIVAL_LOG_INLIERS = float(np.log1p(RIVAL_INLIERS))
RIVAL_LOG_VOTES = float(np.log1p(2.8))
RIVAL_SIMILARITY = 0.099  # score-normalized cosine

SURE_LOGIT = 5.0  # a probability of 0.9933

# Of 375 true pairs of two evaluation sets, one has fewer inliers and yet a probability over 0.5.
LEAST_INLIERS = 5
FEW_POINTS = 8  # with fewer, a query is a plain picture, and only descriptors can tell
PLAIN_LIKENESS = 0.98  # least cosine of a plain picture and a copy of it; red and green have 0.87
SAME_LIKENESS = 0.995  # of a picture and the same one; pages of other words have up to 0.985
UNSUPPORTED_FROM, UNSUPPORTED_TO = 0.02, 0.1  # probabilities above the first are pressed together below the second

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


def features_of(evidence: pa.Table) -> Doubles:
    """Return the `FEATURES` of evidence rows, float64 [N, F]; the rows must include all pairs of each query.

    Inliers count only beyond the number that unrelated pairs reach by chance. Below it, agreement and coverage are 0,
    because two points always agree.

    A lead compares a pair with the best other reference of the same query: many weak matches with one reference mean
    more if no other has nearly as many. The rival is at least as good as the best of many unrelated references, since a
    small collection may not have such a rival. A lead is never negative.
    """
    similarity, normalized, votes, crop_votes, agreement, coverage, inliers = (
        _numbers(evidence, name)
        for name in ("similarity", "normalized_similarity", "votes", "crop_votes", "agreement", "coverage", "inliers")
    )
    inliers, votes = np.log1p(inliers), np.log1p(np.maximum(votes, crop_votes))
    query = evidence.column("query_id").to_numpy()
    beyond_chance = inliers > RIVAL_LOG_INLIERS
    columns = {
        "log_inliers": np.maximum(inliers - RIVAL_LOG_INLIERS, 0.0),
        "agreement": beyond_chance * agreement,
        "coverage": beyond_chance * np.sqrt(coverage),
        "log_votes": votes,
        "log_vote_lead": _lead(votes, query, RIVAL_LOG_VOTES),
        "log_inlier_lead": _lead(inliers, query, RIVAL_LOG_INLIERS),
        "similarity": similarity,
        "normalized_similarity": normalized,
        "similarity_lead": _lead(normalized, query, RIVAL_SIMILARITY),
        "branches": pc.list_value_length(evidence.column("branches")).to_numpy().astype(np.float64),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1)


def _numbers(evidence: pa.Table, name: str) -> Doubles:
    """Return a column, with 0 where it is null."""
    values: Doubles = pc.fill_null(evidence.column(name).cast(pa.float64()), 0.0).to_numpy()
    return values


def _lead(values: Doubles, query: NDArray[np.object_], rival: float) -> Doubles:
    """Return how far each value exceeds both `rival` and the greatest other value of its query; at least 0."""
    _, number = np.unique(query.astype(str), return_inverse=True)
    order = np.lexsort((-values, number))
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    ranked = np.append(values[order], 0.0)
    last = np.diff(np.append(starts, len(values))) == 1  # a query with one reference
    greatest, second = ranked[starts][number], np.where(last, 0.0, ranked[starts + 1])[number]
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
        [index.items.path_digest for index in (query_index, reference_index)],
    ]
    step = Step.of("merge", parquet, csv, made_from=made_from, record=folder.work / "merge.json")
    if step.is_done():
        return parquet
    with step.run(len(evidence), "shards") as work:
        tables = [_score(read_table(path, schema=EVIDENCE_SCHEMA), rules) for path in evidence]
        pairs = pa.concat_tables([MATCH_SCHEMA.empty_table(), *tables])
        pairs = pairs.sort_by([("score", "descending"), ("query_id", "ascending"), ("reference_id", "ascending")])
        table = _drop_reversed_duplicates(pairs, query_index.paths, reference_index.paths)
        write_csv(csv, _csv_table(table))
        write_table(parquet, table.replace_schema_metadata(None))
        work.advance(len(evidence))
    return parquet


def _score(evidence: pa.Table, settings: MergeSettings) -> pa.Table:
    if settings.rule == "sum":
        lists = evidence.column("branch_matches").to_pylist()
        return evidence.add_column(
            2, MATCH_SCHEMA.field("score"), pa.array([float(sum(each)) for each in lists], pa.float64())
        )
    probability = load_calibration(settings.calibration).probability(features_of(evidence))
    share = np.maximum(probability - UNSUPPORTED_FROM, 0) / (1 - UNSUPPORTED_FROM)
    pressed = np.minimum(probability, UNSUPPORTED_FROM) + share * (UNSUPPORTED_TO - UNSUPPORTED_FROM)
    score = np.where(_is_supported(evidence), probability, pressed).round(SCORE_DECIMALS)
    scored = evidence.add_column(2, MATCH_SCHEMA.field("score"), pa.array(score))
    return scored.filter(pa.array(score >= settings.min_score))


def _is_supported(evidence: pa.Table) -> NDArray[np.bool_]:
    """Return which pairs may be copies, bool [N]: those whose points agree, or the same picture.

    Descriptors and votes alone call pages of other words a copy, since their layout and their letters are the same, and
    any photograph with a black box a copy of a black picture.
    """
    is_plain = _numbers(evidence, "view_points") < FEW_POINTS
    # The points of a repeated pattern do not agree even with those of the same picture.
    is_same = _numbers(evidence, "similarity") >= np.where(is_plain, PLAIN_LIKENESS, SAME_LIKENESS)
    return np.asarray(is_same | (_numbers(evidence, "inliers") >= LEAST_INLIERS))


def _drop_reversed_duplicates(
    pairs: pa.Table, query_paths: Mapping[str, str], reference_paths: Mapping[str, str]
) -> pa.Table:
    sides = []
    for name, paths in (("query_id", query_paths), ("reference_id", reference_paths)):
        ids = pc.dictionary_encode(pairs.column(name)).combine_chunks()
        found = np.array([file_identity(paths[image]) for image in ids.dictionary.to_pylist()], object)
        sides.append(found[ids.indices.to_numpy()] if len(found) else found)
    if not set(sides[0]) & set(sides[1]):
        return pairs
    seen: set[tuple[str, str]] = set()
    kept = []
    for first, second in zip(*sides, strict=True):
        pair = (min(first, second), max(first, second))
        kept.append(pair not in seen)
        seen.add(pair)
    return pairs.filter(pa.array(kept, pa.bool_()))


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
