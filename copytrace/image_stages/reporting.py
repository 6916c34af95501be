"""Matches become a page and a summary that people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.images import ImageSettings
from copytrace.index.image_index import ImageIndex
from copytrace.media.failures import read_failures
from copytrace.object_store import redact_all
from copytrace.progress import Progress
from copytrace.report.images import write_image_report
from copytrace.run_folder import MatchPaths
from copytrace.search.image_candidates import BRANCHES
from copytrace.step import VERSION, read_record, recorded, summarise, versions
from copytrace.storage import count_rows, digest_of, read_stamp, read_table, write_json


def report(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings, progress: Progress) -> Path:
    """Write `report.html`, unless the one there shows these very matches."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    record, threshold = paths.out / "work" / "report.json", settings.merge.threshold
    failures = len(read_failures(paths.failures))
    state = digest_of(VERSION, read_stamp(paths.matches), settings.report.model_dump(), threshold, failures)
    if paths.report.exists() and read_record(record).get("shown") == state:
        return paths.report
    pairs = count_rows(paths.matches)
    with recorded(record, "report", min(pairs, settings.report.max_matches)) as entry:
        entry["shown"] = state
        return write_image_report(
            paths.matches,
            paths.report,
            query_paths=query_index.paths,
            reference_paths=reference_index.paths,
            summary={
                "queries": len(query_index.items),
                "references": len(reference_index.items),
                "pairs": pairs,
                "failures": failures,
                "score_kind": "points" if settings.merge.rule == "sum" else "probability",
                "version": VERSION,
            },
            threshold=threshold,
            max_matches=settings.report.max_matches,
            picture_side=settings.report.picture_side,
            progress=progress,
        )


def summarise_run(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings) -> dict[str, Any]:
    """Write `run.json`: settings, versions, models, counts, seconds and peak memory per stage; and return it."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    matches = read_table(paths.matches, columns=["query_id", "score"])
    scores = matches.column("score").to_numpy()
    copies = scores >= settings.merge.threshold
    found = {query for query, copy in zip(matches.column("query_id").to_pylist(), copies, strict=True) if copy}
    records = [*(queries / "receipts").glob("*.json"), *(queries / "overlays").glob("*.json")]
    records += [*(references / "receipts").glob("*.json"), *paths.out.glob("work/*.json")]
    records += [paths.candidates(branch).with_suffix(".json") for branch in BRANCHES]
    records += [paths.evidence(shard).with_suffix(".json") for shard in query_index.shards]
    run = {
        "settings": redact_all(settings.model_dump(by_alias=True)),
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
        "stages": summarise(records),
    }
    write_json(paths.out / "run.json", run)
    return run
