"""Matches become a page and a summary that people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.schema import ImageSettings
from copytrace.features.image_index import ImageIndex
from copytrace.image_stages.paths import MatchPaths
from copytrace.media.failures import read_failures
from copytrace.progress import Progress
from copytrace.records import VERSION, recorded, summarise, versions
from copytrace.report.images import write_image_report
from copytrace.search.candidates import BRANCHES
from copytrace.storage import digest_of, read_stamp, write_json


def report(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings, progress: Progress) -> Path:
    """Write `report.html`, unless the one there shows these very matches."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    record = paths.out / "work" / "report.json"
    shown = digest_of(VERSION, read_stamp(paths.matches), settings.report.model_dump(), settings.merge.threshold)
    if paths.report.exists() and record.exists() and json.loads(record.read_text())["shown"] == shown:
        return paths.report
    pairs = pq.read_metadata(paths.matches).num_rows
    with recorded(record, "report", min(pairs, settings.report.max_matches)) as entry:
        entry["shown"] = shown
        return write_image_report(
            paths.matches,
            paths.report,
            query_paths=query_index.paths,
            reference_paths=reference_index.paths,
            summary={
                "queries": len(query_index.items),
                "references": len(reference_index.items),
                "pairs": pairs,
                "failures": len(read_failures(paths.failures)),
                "score_kind": "points" if settings.merge.rule == "sum" else "probability",
                "version": VERSION,
            },
            threshold=settings.merge.threshold,
            max_matches=settings.report.max_matches,
            picture_side=settings.report.picture_side,
            progress=progress,
        )


def summarise_run(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings) -> dict[str, Any]:
    """Write `run.json`: settings, versions, models, counts, seconds and peak memory per stage; and return it."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    matches = pq.read_table(paths.matches, columns=["query_id", "score"])
    scores = matches.column("score").to_numpy()
    copies = scores >= settings.merge.threshold
    found = {query for query, copy in zip(matches.column("query_id").to_pylist(), copies, strict=True) if copy}
    records = [*(queries / "receipts").glob("*.json"), *(queries / "overlays").glob("*.json")]
    records += [*(references / "receipts").glob("*.json"), *paths.out.glob("work/*.json")]
    records += [paths.candidates(branch).with_suffix(".json") for branch in BRANCHES]
    records += [paths.evidence(shard).with_suffix(".json") for shard in query_index.shards]
    run = {
        "settings": settings.model_dump(by_alias=True),
        "versions": versions(),
        "models": {"descriptor": query_index.made_with["descriptor"]},
        "counts": {
            "queries": len(query_index.items),
            "references": len(reference_index.items),
            "failures": len(read_failures(paths.failures)),
            "pairs": len(scores),
            "copies": int(copies.sum()),
            "queries_with_copies": len(found),
        },
        "stages": summarise(path for path in records if path.exists()),
    }
    write_json(paths.out / "run.json", run)
    return run
