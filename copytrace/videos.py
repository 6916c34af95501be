"""Video matching: `copytrace.match_videos(queries, references, out)` and the recipe behind it.

    check → for queries, then references: plan → describe, per shard → finish (→ index segments)
          → per shard of queries: search frames → align pairs → verify segments → find exact ends → compare signatures
          → merge → report → summarize

The command line and notebooks run the steps in their own process; the Prefect flows run the same recipe as tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.videos import VideoSettings
from copytrace.alignment.align import align_pairs, merge_segments
from copytrace.alignment.aligners import load_aligner
from copytrace.alignment.exact_ends import find_exact_ends
from copytrace.alignment.segment_verification import verify_segments
from copytrace.alignment.signature_comparison import compare_signatures
from copytrace.code_changes import note_code
from copytrace.features.descriptors import model_label
from copytrace.index.media_index import Role, check_model, finish_index, shards_of
from copytrace.index.odd_files import gather_odd_files
from copytrace.index.snapshots import search_unchanged
from copytrace.index.video_index import VideoIndex, describe_videos, load_video_models, plan_videos
from copytrace.index.video_segments import index_segments, open_segments
from copytrace.lease import hold_lease
from copytrace.report.videos import report_videos
from copytrace.run_folder import RunInput, VideoRunFolder
from copytrace.search.unedited_queries import detect_editing, editing_detector
from copytrace.search.video_candidates import search_frames
from copytrace.step import ProcessRunner, Progress, Runner
from copytrace.storage import open_output, require_writable, resolve_path
from copytrace.summary import summarize_videos


def match_videos(
    queries: str | Path,
    references: str | Path,
    out: str | Path,
    settings: VideoSettings | None = None,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Find which seconds of which references the queries show, and write tables and a report into the folder `out`.

    Both are anything that `list_media` accepts, or an index (`index_videos`, or imported descriptors). Returns the
    content of `run.json`. Work that an earlier run into `out` finished is not repeated. Each place may be local or in
    a store (`s3://…`). The steps run in this process and show their progress to `progress`, unless a `runner` is given.
    Raises `InputError`, `StorageError`, `ConfigError`, `ModelMismatchError` or `TooManyFailuresError`; `InUseError` if
    another run writes into `out`, `LeaseLostError` if one took it over, and `IndexChangedError` if an index changed
    each time that it was searched. Each says what to do.
    """
    settings, runner = settings or VideoSettings(), runner or ProcessRunner(progress)
    folder = VideoRunFolder(require_writable(out))
    inputs = [folder.queries(queries), folder.references(references)]
    query_index, reference_index = (each.index for each in inputs)
    noise = [resolve_path(settings.search.noise)] if settings.search.noise else []
    with hold_lease(folder.out), note_code(folder.work):
        runner.run(check_videos, settings, {each.role: each.index for each in inputs if each.is_given})
        if all(each.is_given for each in inputs):
            gather_odd_files([], folder.failures)  # two indexes are given, so no file is read
        _describe(runner, [each for each in inputs if not each.is_given], settings, folder.failures, replace=True)
        return search_unchanged(
            [query_index, reference_index, *noise],
            lambda: _search(runner, query_index, reference_index, folder, settings),
        )


def index_videos(
    references: str | Path,
    out: str | Path,
    settings: VideoSettings | None = None,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> Path:
    """Describe the references once, into the index folder `out`, and return it.

    In an index that exists, only new and changed videos are described, and missing ones are removed. Raises
    `ModelMismatchError` if it was made with other settings, and otherwise the errors of `match_videos`.
    """
    settings, runner = settings or VideoSettings(), runner or ProcessRunner(progress)
    with open_output(out) as root:
        source = RunInput(str(references), root, "references", is_given=False)
        _describe(runner, [source], settings, root / "failures.csv", replace=False)
    return root


def check_videos(settings: VideoSettings, indexes: Mapping[Role, Path]) -> None:
    """Raise early what would stop the run later: a missing aligner or detector, or an index that does not fit.

    `indexes` are the inputs that are indexes; if both are, no descriptor is loaded.
    """
    load_aligner(settings.alignment, settings.descriptor)
    if settings.editing.detector:
        editing_detector(settings)
    opened = {role: VideoIndex.open(root) for role, root in indexes.items()}
    if len(opened) < 2:
        descriptor, _ = load_video_models(settings.descriptor, settings.panes.detector)
        model = model_label(descriptor)
    else:
        model = opened["queries"].provenance["descriptor"]
    noise = [VideoIndex.open(resolve_path(settings.search.noise))] if settings.search.noise else []
    for index in [*opened.values(), *noise]:
        check_model(index, model)
    for index in [*(index for role, index in opened.items() if role == "references"), *noise]:
        open_segments(index)


def _describe(
    runner: Runner, inputs: Sequence[RunInput], settings: VideoSettings, failures: Path, *, replace: bool
) -> None:
    indexes = [each.index for each in inputs]
    with hold_lease(*indexes):
        planned = [
            (each, runner.run(plan_videos, each.source, each.index, each.role, settings, replace=replace))
            for each in inputs
        ]
        for each, shards in planned:
            runner.run_shards(shards, describe_videos, root=each.index, settings=settings)
            runner.run(finish_index, each.index, failures, indexes, settings.media.max_failure_rate)
            if each.role == "references":
                runner.run(index_segments, each.index)


def _search(
    runner: Runner, queries: Path, references: Path, folder: VideoRunFolder, settings: VideoSettings
) -> dict[str, Any]:
    given: dict[str, Any] = {"queries": queries, "references": references, "folder": folder, "settings": settings}
    editing = [detect_editing] if settings.editing.detector else []
    steps = [*editing, search_frames, align_pairs, verify_segments, find_exact_ends, compare_signatures]
    runner.run_shards(shards_of(queries), *steps, **given)
    runner.run(merge_segments, queries, references, folder)
    if settings.report.max_matches:
        runner.run(report_videos, queries, references, folder, settings)
    return runner.run(summarize_videos, queries, references, folder, settings)
