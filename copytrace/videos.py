"""Video matching as a library call: `copytrace.match_videos(queries, references, out)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.videos import VideoSettings
from copytrace import video_stages as stages
from copytrace.index.media_index import read_plan
from copytrace.media.failures import write_failures
from copytrace.progress import Progress, SharedProgress, SilentProgress
from copytrace.storage import require_writable
from copytrace.video_stages import VideoMatchPaths


def match_videos(
    queries: str | Path,
    references: str | Path,
    out: str | Path,
    settings: VideoSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find which seconds of which references the queries show, and write tables and a report into the folder `out`.

    Both are whatever `list_media` takes, or an index (`index_videos`, or imported descriptors). Returns what stands in
    `run.json`. What an earlier run into `out` has done is not done again. Each place may be local or in a store
    (`s3://…`). Raises `InputError`, `StorageError`, `ConfigError`, `ModelMismatchError` or `TooManyFailuresError`, each
    with the cure.
    """
    settings, progress = settings or VideoSettings(), progress or SilentProgress()
    paths = VideoMatchPaths(require_writable(out))
    sides = paths.sides(queries, references)
    query_index, reference_index = (root for _, root, _, _ in sides)
    stages.check(settings, [root for _, root, _, to_make in sides if not to_make])
    todo = [
        (root, stages.plan(source, root, role, settings, replace=True))
        for source, root, role, to_make in sides
        if to_make
    ]
    if not todo:
        write_failures(paths.failures, [])  # both came as indexes: no file is read
    for root, shards in todo:
        _describe(root, shards, settings, progress, failures=paths.failures, indexes=[made for made, _ in todo])
    with progress.stage("search frames", stages.count_frames(query_index), "frames") as searching:
        for shard in stages.shards_of(query_index):
            stages.search_shard(shard, query_index, reference_index, paths, settings, SharedProgress(searching))
    with progress.stage("align pairs", stages.count_pairs(query_index, paths), "pairs") as aligning:
        for shard in stages.shards_of(query_index):
            stages.align_shard(shard, query_index, reference_index, paths, settings, SharedProgress(aligning))
    stages.merge_segments(query_index, reference_index, paths)
    if settings.report.max_matches:
        stages.report(query_index, reference_index, paths, settings, progress)
    return stages.summarise_run(query_index, reference_index, paths, settings)


def index_videos(
    references: str | Path,
    out: str | Path,
    settings: VideoSettings | None = None,
    progress: Progress | None = None,
) -> Path:
    """Describe the references once, into the index folder `out`, and return it.

    Into an index that exists, only new and changed videos are described, and those that are gone are dropped.
    Raises `ModelMismatchError` if it was made with other settings; else as `match_videos`.
    """
    settings, progress = settings or VideoSettings(), progress or SilentProgress()
    root = require_writable(out)
    shards = stages.plan(str(references), root, "references", settings, replace=False)
    return _describe(root, shards, settings, progress, failures=root / "failures.csv", indexes=[root])


def _describe(
    root: Path, shards: list[int], settings: VideoSettings, progress: Progress, *, failures: Path, indexes: list[Path]
) -> Path:
    if shards:
        name = f"describe {read_plan(root).role}"
        with progress.stage(name, stages.count_videos(root, shards), "videos") as stage:
            for shard in shards:
                stages.describe_shard(root, shard, settings, SharedProgress(stage))
    return stages.finish(root, settings, failures=failures, indexes=indexes)
