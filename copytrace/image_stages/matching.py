"""Indexes become matches: recall by each branch, score the pairs, merge."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from configs.images import ImageSettings
from copytrace.index.image_index import ImageIndex
from copytrace.index.media_index import check_model, remove_stale_shards
from copytrace.matching.calibration import calibration_file
from copytrace.matching.evidence import score_pairs
from copytrace.matching.merge import merge
from copytrace.progress import Progress
from copytrace.run_folder import MatchPaths
from copytrace.search.image_candidates import BRANCHES, Branch, find_candidates, group_shards, read_candidates
from copytrace.step import VERSION, recorded
from copytrace.storage import digest_of, digest_of_file, read_stamp, read_table, resolve_path


def recall(
    branch: Branch, queries: Path, references: Path, path: Path, settings: ImageSettings, progress: Progress
) -> Path:
    """Write the candidates of a branch. Raises `ModelMismatchError` for indexes that other models made."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    noise = ImageIndex.open(resolve_path(settings.global_.noise)) if settings.global_.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.made_with["descriptor"])
    asked = settings.global_ if branch == "global" else settings.local
    stamp = digest_of(
        VERSION, branch, query_index.stamp, reference_index.stamp, noise and noise.stamp, asked.model_dump()
    )
    if read_stamp(path) == stamp:
        return path
    segments = 1 if branch == "global" else len(list(group_shards(reference_index)))
    total = len(query_index.items) * segments
    with (
        recorded(path.with_suffix(".json"), f"recall {branch}", len(query_index.items)),
        progress.stage(f"recall {branch}", total, "queries") as stage,
    ):
        return find_candidates(
            branch, query_index, reference_index, path, settings, noise=noise, stage=stage, stamp=stamp
        )


def score_shard(
    shard: int, queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings, progress: Progress
) -> Path:
    """Write the evidence of all candidate pairs of a shard of queries."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    path = paths.evidence(shard)
    files = [paths.candidates(branch) for branch in BRANCHES]
    asked = (settings.verification.model_dump(), settings.local.mirrored, settings.local.negative)
    ids = sorted(image for image, (_, home) in query_index.items.items() if home == shard)
    stamp = digest_of(VERSION, shard, ids, [read_stamp(file) for file in files], asked)
    if read_stamp(path) == stamp:
        return path
    candidates = read_candidates(files, ids)
    pairs = len({(c.query_id, c.reference_id) for c in candidates})
    with (
        recorded(path.with_suffix(".json"), "score pairs", pairs),
        progress.stage("score pairs", pairs, "pairs") as stage,
    ):
        return score_pairs(query_index, shard, reference_index, candidates, path, settings, stage=stage, stamp=stamp)


def count_pairs(paths: MatchPaths) -> int:
    """Return the number of pairs that the branches propose together."""
    tables = [read_table(paths.candidates(b), columns=["query_id", "reference_id"]) for b in BRANCHES]
    return len(pa.concat_tables(tables).group_by(["query_id", "reference_id"]).aggregate([]))


def merge_scores(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv`, and delete what an earlier run left of shards that are no more."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    shards = query_index.shards
    remove_stale_shards(paths.evidence(0).parent, shards)
    evidence = [paths.evidence(shard) for shard in shards]
    rules = settings.merge
    calibration = digest_of_file(calibration_file(rules.calibration))
    stamp = digest_of(
        VERSION, [read_stamp(path) for path in evidence], rules.model_dump(exclude={"threshold"}), calibration
    )
    csv = paths.matches.with_suffix(".csv")
    if read_stamp(paths.matches) == stamp and csv.exists():
        return paths.matches
    with recorded(paths.out / "work" / "merge.json", "merge", len(evidence)):
        return merge(
            evidence,
            paths.matches,
            csv,
            rules,
            query_paths=query_index.paths,
            reference_paths=reference_index.paths,
            stamp=stamp,
        )


def shards_of(index: Path) -> list[int]:
    """Return the numbers of the shards of a finished index."""
    return ImageIndex.open(index).shards
