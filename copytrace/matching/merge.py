"""Merging: the evidence of all shards becomes one table of matches, best first, however many they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from configs.images import ImageSettings, MergeSettings
from copytrace.checked_files import read_checked
from copytrace.index.image_index import ImageIndex
from copytrace.matching.evidence import EVIDENCE_SCHEMA
from copytrace.matching.score import calibration_file, load_calibration
from copytrace.run_folder import BRANCHES, Branch, ImageRunFolder, remove_stale_shards
from copytrace.search.cut_lists import note_cut
from copytrace.search.own_files import SharedFiles
from copytrace.search.sorted_pairs import SortedPairs
from copytrace.step import Step, fingerprint_of
from copytrace.storage import digest_of_file

SCORE_DECIMALS = 9
COPY = 0.5  # least score of a pair that is more likely a copy than not
PAIR = ("query_id", "reference_id")
BEST_FIRST = [("score", "descending"), ("query_id", "ascending"), ("reference_id", "ascending")]
MATCH_SCHEMA = EVIDENCE_SCHEMA.insert(2, pa.field("score", pa.float64()))
CSV_COLUMNS = (
    *("query_id", "reference_id", "score", "branches", "similarity", "normalized_similarity", "votes", "crop_votes"),
    *("thumbnail_difference", "ratio_matches", "inliers", "coverage", "agreement", "mirrored", "negative"),
    *("transform", "crop_box"),
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
    step = Step.of("merge", parquet, csv, made_from=made_from, record=folder.merged)
    if step.is_done():
        return parquet
    with step.run(len(evidence), "shards") as work, SortedPairs(MATCH_SCHEMA, BEST_FIRST, PAIR) as pairs:
        cut: list[str] = []
        for path in evidence:
            found = read_checked(path, schema=EVIDENCE_SCHEMA)
            scored = _score(found, rules)
            if rules.rule == "calibrated":
                cut += _find_full_lists(found, scored, settings)
            pairs.add(scored)
            work.advance()
        note_cut(work, cut)
        pairs.write(parquet, (query_index.paths, reference_index.paths), SharedFiles.drop_reversed, _csv_table)
    return parquet


def _score(evidence: pa.Table, settings: MergeSettings) -> pa.Table:
    if settings.rule == "sum":
        lists = evidence.column("branch_matches").to_pylist()
        return evidence.add_column(
            2, MATCH_SCHEMA.field("score"), pa.array([float(sum(each)) for each in lists], pa.float64())
        )
    score = load_calibration(settings.calibration).score(evidence).round(SCORE_DECIMALS)
    scored = evidence.add_column(2, MATCH_SCHEMA.field("score"), pa.array(score))
    return scored.filter(pa.array(score >= settings.min_score))


def _find_full_lists(evidence: pa.Table, scored: pa.Table, settings: ImageSettings) -> list[str]:
    """Return the queries for which a branch proposed as many references as it may, and all of them are copies."""
    limits = dict.fromkeys(BRANCHES, settings.local.references_per_query)
    limits["global"] = settings.global_.references_per_query
    proposed = _count_proposals(evidence)
    copies = _count_proposals(scored.filter(pc.greater_equal(scored.column("score"), COPY)))
    return [query for (query, branch), count in copies.items() if count == proposed[query, branch] == limits[branch]]


def _count_proposals(pairs: pa.Table) -> dict[tuple[str, Branch], int]:
    """Return how many references each branch proposed for each query."""
    branches = pairs.column("branches").combine_chunks()
    query = pairs.column("query_id").combine_chunks().take(pc.list_parent_indices(branches))
    table = pa.table({"query": query, "branch": pc.list_flatten(branches)})
    counts = table.group_by(["query", "branch"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["query"], row["branch"]): row["count_all"] for row in counts}


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
