"""Image matching as a library call: `copytrace.match_images(queries, references, out)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.images import ImageSettings
from copytrace import image_stages as stages
from copytrace.image_stages import MatchPaths
from copytrace.index.media_index import Role, is_index
from copytrace.progress import Progress, SharedProgress, SilentProgress
from copytrace.search.image_candidates import BRANCHES
from copytrace.storage import require_writable, resolve_path


def match_images(
    queries: str | Path,
    references: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find which references the queries were copied from, and write tables and a report into the folder `out`.

    `queries` is whatever `list_media` takes; so is `references`, which may also be an index (`index_images`). Returns
    what stands in `run.json`. What an earlier run into `out` has done is not done again. Each place may be local or in
    a store (`s3://…`). Raises `InputError`, `StorageError`, `ConfigError`, `ModelMismatchError` or
    `TooManyFailuresError`, each with the cure.
    """
    settings, progress = settings or ImageSettings(), progress or SilentProgress()
    paths = MatchPaths(require_writable(out))
    indexed = is_index(resolve_path(references))
    reference_index = resolve_path(references) if indexed else paths.references
    stages.check(settings, [reference_index] if indexed else [])
    built = [paths.queries] if indexed else [paths.queries, paths.references]
    sides: list[tuple[str | Path, Path, Role]] = [(queries, paths.queries, "queries")]
    if not indexed:
        sides.append((references, paths.references, "references"))
    todo = [(root, stages.plan(str(source), root, role, settings, replace=True)) for source, root, role in sides]
    for root, shards in todo:
        _describe(root, shards, settings, progress, failures=paths.failures, indexes=built)
    for branch in BRANCHES:
        stages.recall(branch, paths.queries, reference_index, paths.candidates(branch), settings, progress)
    with progress.stage("score pairs", stages.count_pairs(paths), "pairs") as scoring:
        for shard in stages.shards_of(paths.queries):
            stages.score_shard(shard, paths.queries, reference_index, paths, settings, SharedProgress(scoring))
    stages.merge_scores(paths.queries, reference_index, paths, settings)
    if settings.report.max_matches:
        stages.report(paths.queries, reference_index, paths, settings, progress)
    return stages.summarise_run(paths.queries, reference_index, paths, settings)


def index_images(
    references: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    progress: Progress | None = None,
) -> Path:
    """Describe the references once, into the index folder `out`, and return it.

    Into an index that exists, only new and changed images are described, and those that are gone are dropped.
    Raises `ModelMismatchError` if it was made with other settings; else as `match_images`.
    """
    settings, progress = settings or ImageSettings(), progress or SilentProgress()
    root = require_writable(out)
    shards = stages.plan(str(references), root, "references", settings, replace=False)
    return _describe(root, shards, settings, progress, failures=root / "failures.csv", indexes=[root])


def _describe(
    root: Path, shards: list[int], settings: ImageSettings, progress: Progress, *, failures: Path, indexes: list[Path]
) -> Path:
    role = stages.role_of(root)
    images = stages.count_images(root, shards)
    if shards and role == "queries":
        with progress.stage("preprocess queries", images, "images") as stage:
            for shard in shards:
                stages.preprocess_shard(root, shard, settings, SharedProgress(stage))
    if shards:
        with progress.stage(f"describe {role}", images, "images") as stage:
            for shard in shards:
                stages.describe_shard(root, shard, settings, SharedProgress(stage))
    return stages.finish(root, settings, failures=failures, indexes=indexes)
