"""The summary of a run, `run.json`: settings, versions, models, counts, and the cost of each step."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from configs.images import ImageSettings
from configs.settings import Settings
from configs.videos import VideoSettings
from copytrace.checked_files import check_file, files_of, open_checked, read_checked, read_record, record_files
from copytrace.checksums import damage_error
from copytrace.index.image_index import ImageIndex
from copytrace.index.media_index import MediaIndex
from copytrace.index.odd_files import count_passed_over
from copytrace.media.failures import read_failures
from copytrace.object_store import redact, redact_all
from copytrace.run_folder import BRANCHES, ImageRunFolder, RunFolder, VideoRunFolder
from copytrace.search.cut_lists import read_cut
from copytrace.storage import write_json

if TYPE_CHECKING:
    from copytrace.index.video_index import VideoIndex

PACKAGES = (
    *("copytrace", "av", "faiss-cpu", "faiss-gpu", "numpy", "onnxruntime", "opencv-python-headless", "pillow"),
    *("scipy", "torch"),
)


def summarize_images(
    queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings
) -> dict[str, Any]:
    """Write `run.json` of a run of image matching, and return its content."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    counts = count_matches(folder, settings.merge.threshold)
    shards = query_index.shards
    records = [folder.candidates(branch, shard).with_suffix(".json") for branch in BRANCHES for shard in shards]
    records += [folder.evidence(shard).with_suffix(".json") for shard in shards]
    records += (queries / "overlays").glob("*.json")
    facts = {"models": {"descriptor": query_index.provenance["descriptor"]}, "cut_queries": read_cut(folder, shards)}
    return _write_summary(folder, settings, (query_index, reference_index), facts, counts, records)


def count_matches(folder: ImageRunFolder, threshold: float) -> dict[str, int]:
    """Return the numbers of pairs, of those that are copies, and of the queries in the latter, batch by batch."""
    pairs, copies = 0, 0
    copied: set[str] = set()
    with open_checked(folder.matches, folder.merged) as file:
        for batch in file.iter_batches(columns=["query_id", "score"]):
            queries = batch["query_id"].filter(pc.greater_equal(batch["score"], threshold))
            pairs, copies = pairs + len(batch), copies + len(queries)
            copied.update(pc.unique(queries).to_pylist())
    return {"pairs": pairs, "copies": copies, "queries_with_copies": len(copied)}


def summarize_videos(
    queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> dict[str, Any]:
    """Write `run.json` of a run of video matching, and return its content."""
    from copytrace.alignment.aligners import model_digests  # here: image matching must not import av  # noqa: PLC0415
    from copytrace.index.video_index import VideoIndex  # noqa: PLC0415

    query_index, reference_index = VideoIndex.open(queries), VideoIndex.open(references)
    scores = read_checked(folder.segments, folder.merged, columns=["score"]).column("score").to_numpy()
    threshold = settings.alignment.threshold
    counts = {
        "query_hours": _hours(query_index),
        "reference_hours": _hours(reference_index),
        "segments": len(scores),
        "copied_segments": int((scores >= threshold).sum()),
        **count_pairs(folder, threshold),
    }
    records: list[Path] = []
    for shard in query_index.shards:
        outputs = [
            folder.candidates(shard),
            folder.shard_segments(shard),
            folder.verified_segments(shard),
            folder.exact_segments(shard),
            folder.signature_segments(shard),
        ]
        outputs += [folder.editing(shard)] if settings.editing.detector else []
        records += [output.with_suffix(".json") for output in outputs]
    facts = {
        "models": {
            "descriptor": query_index.provenance["descriptor"],
            "alignment": model_digests(settings.alignment),
        },
        "cut_queries": read_cut(folder, query_index.shards),
        "indexes": {"queries": redact(str(queries.absolute())), "references": redact(str(references.absolute()))},
    }
    return _write_summary(folder, settings, (query_index, reference_index), facts, counts, records)


def count_pairs(folder: VideoRunFolder, threshold: float) -> dict[str, int]:
    """Return the numbers of pairs, of those whose best segment is a copy, and of the queries in the latter."""
    table = read_checked(folder.segments, folder.merged, columns=["query_id", "ref_id", "score"])
    pairs = table.group_by(["query_id", "ref_id"]).aggregate([("score", "max")])
    copies = pairs.filter(pa.array(pairs.column("score_max").to_numpy() >= threshold))
    queries = pc.count_distinct(copies.column("query_id")).as_py()
    return {"pairs": len(pairs), "copies": len(copies), "queries_with_copies": queries}


def sum_costs(records: Iterable[Path]) -> dict[str, dict[str, float]]:
    """Return the cost of each step over its shards: counts and seconds summed, and the largest peak memory.

    Records that do not exist, or that are not of a step, are skipped. Raises `DamagedFileError`.
    """
    steps: dict[str, dict[str, float]] = {}
    for path in sorted(records):
        record = read_record(path)
        if "stage" not in record:
            continue
        try:
            name, count, seconds, memory = (record[key] for key in ("stage", "count", "seconds", "peak_memory_mib"))
            total = steps.setdefault(name, {"count": 0, "seconds": 0.0, "peak_memory_mib": 0.0})
            total["count"] += count
            total["seconds"] = round(total["seconds"] + seconds, 3)
            total["peak_memory_mib"] = max(total["peak_memory_mib"], memory)
        except (KeyError, TypeError) as error:
            raise damage_error(path) from error
    return steps


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results may depend on."""
    return {"python": platform.python_version()} | {name: found for name in PACKAGES if (found := _version(name))}


def _write_summary(
    folder: RunFolder,
    settings: Settings,
    indexes: tuple[MediaIndex, MediaIndex],
    facts: dict[str, Any],
    counts: Mapping[str, float],
    records: Sequence[Path],
) -> dict[str, Any]:
    queries, references = indexes
    for path in files_of(folder.merged):
        check_file(path, folder.merged)  # an earlier run may have written them, and nothing else reads all of them
    receipts = [path for index in indexes for path in (index.root / "receipts").glob("*.json")]
    sizes = {
        "queries": len(queries.items),
        "references": len(references.items),
        "failures": len(read_failures(folder.failures)),
        "passed_over": count_passed_over(folder.failures)["files"],
        "cut_queries": len(facts["cut_queries"]),
    }
    summary = {
        "settings": redact_all(settings.model_dump(by_alias=True)),
        "versions": package_versions(),
        **facts,
        "counts": {**sizes, **counts},
        "stages": sum_costs([*receipts, *folder.work.glob("*.json"), *records]),
    }
    with record_files(folder.work / "summary.json"):
        write_json(folder.summary, summary)
    return summary


def _hours(index: VideoIndex) -> float:
    return round(sum(video.duration for video in index.facts().values()) / 3600, 3)


@cache  # metadata are parsed anew otherwise; packages do not change under a process
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
