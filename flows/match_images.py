"""Match images: which of the references were the queries copied from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.schema import ImageSettings
from copytrace.cli import options
from copytrace.features.media_index import Role, is_index
from copytrace.image_stages import MatchPaths, shards_of
from copytrace.search.candidates import BRANCHES
from flows.index_images import ONE_SHARD_AT_A_TIME, describe_index
from flows.parameters import Media, Out, Overrides, Preset, References, chosen_by, settings_of
from flows.terminal import at_the_terminal
from tasks.ingest import check, ingest
from tasks.merge import merge
from tasks.recall import recall
from tasks.report import report, summarise
from tasks.score import score
from tasks.tracking import track


@flow(
    name="match-images",
    flow_run_name="match {queries} with {references}",
    task_runner=ONE_SHARD_AT_A_TIME,
)
def match_images(
    queries: Media,
    references: References,
    out: Out,
    preset: Preset = "cpu",
    overrides: Overrides = {},  # noqa: B006
) -> dict[str, Any]:
    """Write tables and a report of the matches into the folder `out`, and return what stands in `run.json`.

    Raises what `copytrace.image_matching.match_images` raises, and `SettingsError`.
    """
    settings, paths = settings_of(ImageSettings, preset, overrides), MatchPaths(Path(out))
    query_index, reference_index = paths.queries, paths.references
    sides: list[tuple[str, Path, Role]] = [(queries, query_index, "queries")]
    if is_index(Path(references)):
        reference_index = Path(references)
    else:
        sides.append((references, reference_index, "references"))
    check(settings, [reference_index] if len(sides) == 1 else [])
    built = [root for _, root, _ in sides]
    todo = [(root, role, ingest(source, root, role, settings, replace=True)) for source, root, role in sides]
    for root, role, missing in todo:
        describe_index(root, role, missing, settings, failures=paths.failures, indexes=built)
    for branch in BRANCHES:
        recall(branch, query_index, reference_index, paths.candidates(branch), settings)
    scored = [
        score.submit(shard, query_index, reference_index, paths.out, settings) for shard in shards_of(query_index)
    ]
    for evidence in scored:
        evidence.result()
    merge(query_index, reference_index, paths.out, settings)
    if settings.report.max_matches:
        report(query_index, reference_index, paths.out, settings)
    run = summarise(query_index, reference_index, paths.out, settings)
    track(paths.out, "match-images", run)
    return run


def main(
    queries: Annotated[str, options.Images],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-images.")],
    out: Annotated[Path, typer.Option(help="Folder for matches.csv, report.html and the rest.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
) -> None:
    """Find which REFERENCES the QUERIES were copied from, as a Prefect flow."""
    with at_the_terminal():
        run = match_images(queries, references, str(out), **chosen_by(ImageSettings, preset, config, overrides))
        typer.echo(f"{run['counts']['copies']:,} copies; see {out / 'matches.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(main)
