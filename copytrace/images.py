"""Image matching: `copytrace.match_images(queries, references, out)` and the recipe behind it.

    check → for queries, then references: plan → (find overlays →) describe, per shard → finish (→ index segments)
          → recall, per branch and shard of queries → score, per shard of queries → merge → report → summarize

The command line and notebooks run the steps in their own process; the Prefect flows run the same recipe as tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.images import ImageSettings
from copytrace.code_changes import note_code
from copytrace.features.descriptors import model_label
from copytrace.index.added_thumbnails import add_thumbnails, shards_without_thumbnails
from copytrace.index.codebook import check_codebook
from copytrace.index.image_index import ImageIndex, describe_images, find_overlays, load_image_models, plan_images
from copytrace.index.image_segments import index_segments, open_segments
from copytrace.index.media_index import check_model, finish_index, shards_of
from copytrace.index.snapshots import search_unchanged
from copytrace.lease import hold_lease
from copytrace.matching.evidence import score_pairs
from copytrace.matching.merge import merge_matches
from copytrace.matching.score import load_calibration
from copytrace.report.images import report_images
from copytrace.run_folder import BRANCHES, ImageRunFolder, RunInput
from copytrace.search.image_candidates import recall_images
from copytrace.step import ProcessRunner, Progress, Runner
from copytrace.storage import open_output, require_writable, resolve_path
from copytrace.summary import summarize_images


def match_images(
    queries: str | Path,
    references: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Find which references the queries were copied from, and write tables and a report into the folder `out`.

    `queries` is anything that `list_media` accepts; `references` may also be an index (`index_images`). Returns the
    content of `run.json`. Work that an earlier run into `out` finished is not repeated. Each place may be local or in
    a store (`s3://…`). The steps run in this process and show their progress to `progress`, unless a `runner` is given.
    Raises `InputError`, `StorageError`, `ConfigError`, `ModelMismatchError` or `TooManyFailuresError`; `InUseError` if
    another run writes into `out`, `LeaseLostError` if one took it over, and `IndexChangedError` if an index changed
    each time that it was searched. Each says what to do.
    """
    settings, runner = settings or ImageSettings(), runner or ProcessRunner(progress)
    folder = ImageRunFolder(require_writable(out))
    inputs = [folder.queries(queries, may_be_index=False), folder.references(references)]
    query_index, reference_index = (each.index for each in inputs)
    noise = [resolve_path(settings.global_.noise)] if settings.global_.noise else []
    with hold_lease(folder.out), note_code(folder.work):
        runner.run(check_images, settings, [each.index for each in inputs if each.is_given])
        _describe(runner, [each for each in inputs if not each.is_given], settings, folder.failures, replace=True)
        return search_unchanged(
            [query_index, reference_index, *noise],
            lambda: _search(runner, query_index, reference_index, folder, settings),
        )


def index_images(
    references: str | Path,
    out: str | Path,
    settings: ImageSettings | None = None,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> Path:
    """Describe the references once, into the index folder `out`, and return it.

    In an index that exists, only new and changed images are described, and missing ones are removed. Raises
    `ModelMismatchError` if it was made with other settings, and otherwise the errors of `match_images`.
    """
    settings, runner = settings or ImageSettings(), runner or ProcessRunner(progress)
    with open_output(out) as root:
        source = RunInput(str(references), root, "references", is_given=False)
        _describe(runner, [source], settings, root / "failures.csv", replace=False)
    return root


def check_images(settings: ImageSettings, indexes: Sequence[Path]) -> None:
    """Raise early what would stop the run later: a bad calibration, or an index of other models or not ready."""
    if settings.merge.rule == "calibrated":
        load_calibration(settings.merge.calibration)
    noise = [resolve_path(settings.global_.noise)] if settings.global_.noise else []
    opened = [ImageIndex.open(root) for root in [*indexes, *noise]]
    with ThreadPoolExecutor(1) as pool:
        models = pool.submit(load_image_models, settings.descriptor, settings.overlay.detector)
        for index in opened[: len(indexes)]:
            check_codebook(index, settings.local.codebook)
        for index in opened:
            open_segments(index)
    descriptor, _ = models.result()
    for index in opened:
        check_model(index, model_label(descriptor))


def _describe(
    runner: Runner, inputs: Sequence[RunInput], settings: ImageSettings, failures: Path, *, replace: bool
) -> None:
    indexes = [each.index for each in inputs]
    with hold_lease(*indexes):
        planned = [
            (each, runner.run(plan_images, each.source, each.index, each.role, settings, replace=replace))
            for each in inputs
        ]
        for each, shards in planned:
            steps = [find_overlays, describe_images] if each.role == "queries" else [describe_images]
            runner.run_shards(shards, *steps, root=each.index, settings=settings)
            if older := shards_without_thumbnails(each.index):
                runner.run_shards(older, add_thumbnails, root=each.index, settings=settings)
            runner.run(finish_index, each.index, failures, indexes, settings.media.max_failure_rate)
            if each.role == "references":
                runner.run(index_segments, each.index)


def _search(
    runner: Runner, queries: Path, references: Path, folder: ImageRunFolder, settings: ImageSettings
) -> dict[str, Any]:
    given: dict[str, Any] = {"queries": queries, "references": references, "folder": folder, "settings": settings}
    for branch in BRANCHES:
        runner.run_shards(shards_of(queries), recall_images, branch=branch, **given)
    runner.run_shards(shards_of(queries), score_pairs, **given)
    runner.run(merge_matches, queries, references, folder, settings)
    if settings.report.max_matches:
        runner.run(report_images, queries, references, folder, settings)
    return runner.run(summarize_images, queries, references, folder, settings)
