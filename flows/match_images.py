"""Match images: which of the references were the queries copied from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.images import ImageSettings
from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from copytrace.cli import options
from copytrace.image_stages import MatchPaths, shards_of
from copytrace.index.media_index import Role, is_index
from copytrace.search.image_candidates import BRANCHES
from flows.index_images import describe_index
from flows.parameters import Media, Out, Overrides, Preset, References, flow_settings, parameters_from_cli
from flows.terminal import RunnerOption, parse_runner, terminal_session
from tasks.describe import finish
from tasks.ingest import check, ingest
from tasks.merge import merge
from tasks.outputs import show_outputs
from tasks.recall import recall
from tasks.report import report, summarise
from tasks.runners import shards_on
from tasks.score import score
from tasks.storage_access import require_writable, resolve_path
from tasks.tracking import track


@flow(name="match-images", flow_run_name="match {queries} with {references}")
def match_images(
    queries: Media,
    references: References,
    out: Out,
    preset: Preset = "cpu",
    overrides: Overrides = {},  # noqa: B006
    runner: Runner = ONE_SHARD_AT_A_TIME,
) -> dict[str, Any]:
    """Write tables and a report of the matches into the folder `out`, and return what stands in `run.json`.

    Raises what `copytrace.images.match_images` raises, and `SettingsError`.
    """
    settings, paths = flow_settings(ImageSettings, preset, overrides), MatchPaths(require_writable(out))
    indexed = is_index(resolve_path(references))
    query_index, reference_index = paths.queries, resolve_path(references) if indexed else paths.references
    sides: list[tuple[str, Path, Role]] = [
        (queries, query_index, "queries"),
        (references, reference_index, "references"),
    ]
    sides = sides[:1] if indexed else sides
    check(settings, [reference_index] if indexed else [])
    built = [root for _, root, _ in sides]
    with shards_on(runner) as shards:
        todo = [(root, role, ingest(source, root, role, settings, replace=True)) for source, root, role in sides]
        for root, role, planned in todo:
            describe_index(shards, root, role, planned, settings)
            finish(root, settings, failures=paths.failures, indexes=built)
        for branch in BRANCHES:
            recall(branch, query_index, reference_index, paths.candidates(branch), settings)
        indexes = {"queries": query_index, "references": reference_index}
        shards.each(shards_of(query_index), score, **indexes, out=paths.out, settings=settings)
    merge(query_index, reference_index, paths.out, settings)
    if settings.report.max_matches:
        report(query_index, reference_index, paths.out, settings)
    run = summarise(query_index, reference_index, paths.out, settings)
    show_outputs(paths.out, "match-images")
    track(paths.out, "match-images", run)
    return run


def main(
    queries: Annotated[str, options.Images],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-images.")],
    out: Annotated[Path, typer.Option(help="Folder for matches.csv, report.html and the rest.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
    runner: RunnerOption = "threads",
) -> None:
    """Find which REFERENCES the QUERIES were copied from, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(ImageSettings, preset, config, overrides)
        run = match_images(queries, references, str(out), **chosen, runner=parse_runner(runner))
        typer.echo(f"{run['counts']['copies']:,} copies; see {out / 'matches.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(main)
