"""The stages of image matching: files in, files out, each skipping what an earlier run has done.

    plan → preprocess, describe (per shard) → finish     for queries and for references
    recall (per branch) → score (per shard of queries) → merge → report → summarise

The command line (`copytrace.image_matching`) and the Prefect flow call these same functions in this order.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.schema import DescriptorSettings, ImageSettings
from copytrace.errors import ConfigError, ModelMismatchError
from copytrace.features.descriptors import Descriptor, load_descriptor
from copytrace.features.image_index import (
    ImageIndex,
    describe_model,
    finish_index,
    is_done,
    plan_index,
    read_plan,
    settings_of_index,
    write_plan,
)
from copytrace.features.overlay import OverlayDetector, load_overlay_detector
from copytrace.features.shards import Role, ShardPaths, describe, find_overlays
from copytrace.matching.calibration import SHIPPED, load_calibration
from copytrace.matching.evidence import score_pairs
from copytrace.matching.merge import merge
from copytrace.media.failures import check_failure_rate, read_failures, write_failures
from copytrace.media.ingest import list_images
from copytrace.progress import Progress
from copytrace.records import recorded, summarise
from copytrace.report.images import write_image_report
from copytrace.search.candidates import BRANCHES, Branch, find_candidates, read_candidates, segments_of
from copytrace.storage import digest_of, digest_of_file, read_stamp, write_json

VERSION = version("copytrace")  # in every stamp: another version may give other results
PACKAGES = ("copytrace", "faiss-cpu", "faiss-gpu", "numpy", "onnxruntime", "opencv-python-headless", "pillow", "torch")


@dataclass(frozen=True, slots=True)
class MatchPaths:
    """Where a run of `match_images` keeps its files."""

    out: Path

    @property
    def queries(self) -> Path:
        """Index of the queries."""
        return self.out / "work" / "queries"

    @property
    def references(self) -> Path:
        """Index of the references, unless they came as an index."""
        return self.out / "work" / "references"

    def candidates(self, branch: Branch) -> Path:
        """Candidates of a branch."""
        return self.out / "work" / "candidates" / f"{branch}.parquet"

    def evidence(self, shard: int) -> Path:
        """Evidence of the pairs of a shard of queries."""
        return self.out / "work" / "evidence" / f"{shard:05}.parquet"

    @property
    def matches(self) -> Path:
        """All scored pairs with everything known of them."""
        return self.out / "matches.parquet"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.out / "report.html"

    @property
    def failures(self) -> Path:
        """The files that could not be read."""
        return self.out / "failures.csv"


def check(settings: ImageSettings, indexes: Sequence[Path]) -> None:
    """Raise, before any work, what could only stop the run later: a bad calibration, an index of another model."""
    if (settings.merge.rule == "sum") != (settings.verification.rule == "imgfp"):
        raise ConfigError(
            "merge.rule=sum adds up imgFp's counts and needs verification.rule=imgfp, and that needs the sum; "
            "give both or neither, or --preset imgfp"
        )
    if settings.merge.rule == "calibrated":
        load_calibration(settings.merge.calibration)
    descriptor, _ = _models(settings.descriptor, settings.overlay.detector)
    for root in [*indexes, *([Path(settings.global_.noise)] if settings.global_.noise else [])]:
        check_model(ImageIndex.open(root), describe_model(settings, descriptor))


def plan(source: str, root: Path, role: Role, settings: ImageSettings, *, replace: bool) -> list[int]:
    """List the images of `source`, plan the index at `root`, and return the numbers of the shards still to be made.

    Raises `InputError` when the source cannot be used, `ModelMismatchError` as `plan_index` does.
    """
    descriptor, detector = _models(settings.descriptor, settings.overlay.detector)
    made_with = settings_of_index(settings, role, descriptor, detector)
    planned = plan_index(list_images(source), root, made_with, shard_size=settings.media.shard_size, replace=replace)
    write_plan(planned)
    return [shard.number for shard in planned.shards if not is_done(root, shard)]


def role_of(root: Path) -> Role:
    """Return what the index planned at `root` is for."""
    return read_plan(root).role


def count_images(root: Path, shards: Sequence[int]) -> int:
    """Return the number of images in shards that are planned."""
    return sum(len(shard.items) for shard in read_plan(root).shards if shard.number in shards)


def preprocess_shard(root: Path, number: int, settings: ImageSettings, progress: Progress) -> Path:
    """Find the pictures pasted into the queries of a shard; references are taken as they are."""
    planned = read_plan(root)
    shard = next(shard for shard in planned.shards if shard.number == number)
    path = ShardPaths.of(root, number).overlays
    if planned.role == "references" or read_stamp(path) == shard.stamp:
        return path
    _, detector = _models(settings.descriptor, settings.overlay.detector)
    with (
        recorded(path.with_suffix(".json"), "preprocess queries", len(shard.items)),
        progress.stage("preprocess queries", len(shard.items), "images") as stage,
    ):
        return find_overlays(shard.items, path, detector, settings, stage=stage, stamp=shard.stamp)


def describe_shard(root: Path, number: int, settings: ImageSettings, progress: Progress) -> Path:
    """Write descriptors and points of a shard."""
    planned = read_plan(root)
    shard = next(shard for shard in planned.shards if shard.number == number)
    paths = ShardPaths.of(root, number)
    if is_done(root, shard):
        return paths.receipt
    descriptor, _ = _models(settings.descriptor, settings.overlay.detector)
    name = f"describe {planned.role}"
    with (
        recorded(paths.receipt, name, len(shard.items)) as receipt,
        progress.stage(name, len(shard.items), "images") as stage,
    ):
        failures = describe(shard.items, paths, descriptor, settings, role=planned.role, stage=stage, stamp=shard.stamp)
        receipt["failures"] = [asdict(failure) for failure in failures]
    return paths.receipt


def finish(root: Path, settings: ImageSettings, *, failures: Path, indexes: Sequence[Path]) -> Path:
    """Take stock of an index: write its manifest, and list at `failures` what none of `indexes` could read.

    Raises `TooManyFailuresError`, the list being written, above `media.max_failure_rate`.
    """
    planned = read_plan(root)
    failed = finish_index(planned)
    lists = [index / "failures.csv" for index in indexes]
    write_failures(failures, [failure for path in lists if path.exists() for failure in read_failures(path)])
    check_failure_rate(len(failed), planned.total, settings.media.max_failure_rate, failures)
    return root


def recall(
    branch: Branch, queries: Path, references: Path, path: Path, settings: ImageSettings, progress: Progress
) -> Path:
    """Write the candidates of a branch. Raises `ModelMismatchError` for indexes that other models made."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    noise = ImageIndex.open(Path(settings.global_.noise)) if settings.global_.noise else None
    for index in [reference_index, *([noise] if noise else [])]:
        check_model(index, query_index.made_with["descriptor"])
    asked = settings.global_ if branch == "global" else settings.local
    stamp = digest_of(
        VERSION, branch, query_index.stamp, reference_index.stamp, noise and noise.stamp, asked.model_dump()
    )
    if read_stamp(path) == stamp:
        return path
    segments = 1 if branch == "global" else len(list(segments_of(reference_index)))
    total = len(query_index.items) * segments
    with (
        recorded(path.with_suffix(".json"), f"recall {branch}", len(query_index.items)),
        progress.stage(f"recall {branch}", total, "queries") as stage,
    ):
        return find_candidates(
            branch, query_index, reference_index, path, settings, noise=noise, stage=stage, stamp=stamp
        )


def check_model(index: ImageIndex, model: str) -> None:
    """Raise `ModelMismatchError` unless the descriptors of `index` are by `model`."""
    if index.made_with["descriptor"] != model:
        raise ModelMismatchError(
            f"{index.root} was described by {index.made_with['descriptor']}, the queries by {model}; "
            "index it again, or choose its model"
        )


def score_shard(
    shard: int, queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings, progress: Progress
) -> Path:
    """Write the evidence of all candidate pairs of a shard of queries."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    path = paths.evidence(shard)
    files = [paths.candidates(branch) for branch in BRANCHES]
    asked = (settings.verification.model_dump(), settings.local.mirrored, settings.local.negative)
    stamp = digest_of(VERSION, shard, [read_stamp(file) for file in files], asked)
    if read_stamp(path) == stamp:
        return path
    candidates = [c for c in read_candidates(files) if query_index.items[c.query_id][1] == shard]
    pairs = len({(c.query_id, c.reference_id) for c in candidates})
    with (
        recorded(path.with_suffix(".json"), "score pairs", pairs),
        progress.stage("score pairs", pairs, "pairs") as stage,
    ):
        return score_pairs(query_index, shard, reference_index, candidates, path, settings, stage=stage, stamp=stamp)


def count_pairs(paths: MatchPaths) -> int:
    """Return the number of pairs that the branches propose together."""
    tables = [pq.read_table(paths.candidates(b), columns=["query_id", "reference_id"]) for b in BRANCHES]
    return len(pa.concat_tables(tables).group_by(["query_id", "reference_id"]).aggregate([]))


def merge_scores(queries: Path, references: Path, paths: MatchPaths, settings: ImageSettings) -> Path:
    """Write `matches.parquet` and `matches.csv`."""
    query_index, reference_index = ImageIndex.open(queries), ImageIndex.open(references)
    evidence = [paths.evidence(shard) for shard in query_index.shards]
    rules = settings.merge
    calibration = digest_of_file(SHIPPED if rules.calibration == "shipped" else Path(rules.calibration))
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
            query_paths=paths_of(query_index),
            reference_paths=paths_of(reference_index),
            stamp=stamp,
        )


def shards_of(index: Path) -> list[int]:
    """Return the numbers of the shards of a finished index."""
    return ImageIndex.open(index).shards


def paths_of(index: ImageIndex) -> dict[str, str]:
    """Return the path of each image in an index."""
    return {image: item.path for image, (item, _) in index.items.items()}


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
            query_paths=paths_of(query_index),
            reference_paths=paths_of(reference_index),
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
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := _version(name))},
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=4)
def _models(descriptor: DescriptorSettings, detector: str) -> tuple[Descriptor, OverlayDetector | None]:
    """Load the models once per process: shards come one after another."""
    loaded = load_descriptor(
        descriptor.model, backend=descriptor.backend, device=descriptor.device, input_size=descriptor.input_size
    )
    return loaded, load_overlay_detector(detector)
