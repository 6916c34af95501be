"""Flow that finds the references from which query images were copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.images import ImageSettings
from configs.runner import ONE_SHARD_AT_A_TIME, Runner
from copytrace import images
from copytrace.cli import options
from flows.parameters import Media, Out, Overrides, Preset, References, flow_settings, parameters_from_cli
from flows.terminal import parse_runner, terminal_session
from tasks.artifacts import show_outputs
from tasks.image_steps import IMAGE_STEPS
from tasks.runners import run_on
from tasks.storage_access import resolve_path
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
    """Write tables and a report of the matches into the folder `out`, and return the content of `run.json`.

    Steps: check, ingest (queries, references), preprocess (shards of queries), describe (shards),
    finish (queries, references), index-segments (references), recall (branches and shards of queries),
    score (shards of queries), merge, report, summarize.
    There is no report if `report.max_matches` is 0. What an older version described is also taken through
    add-thumbnails. The run is tracked in MLflow if MLFLOW_TRACKING_URI is set.

    Raises what `copytrace.match_images` raises, and `SettingsError`.
    """
    settings = flow_settings(ImageSettings, preset, overrides)
    with run_on(runner, IMAGE_STEPS) as steps:
        run = images.match_images(queries, references, out, settings, runner=steps)
    show_outputs(resolve_path(out), "match-images")
    track(resolve_path(out), "match-images", run)
    return run


def main(
    queries: Annotated[str, options.Images],
    references: Annotated[str, typer.Argument(help="The same, or an index made by index-images.")],
    out: Annotated[Path, typer.Option(help="Folder for matches.csv, report.html and the rest.")],
    overrides: options.Overrides = None,
    preset: options.Preset = "cpu",
    config: options.Config = None,
    runner: options.Runner = "threads",
) -> None:
    """Find which REFERENCES the QUERIES were copied from, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(ImageSettings, preset, config, overrides)
        run = match_images(queries, references, str(out), **chosen, runner=parse_runner(runner))
        typer.echo(f"{run['counts']['copies']:,} copies; see {out / 'matches.csv'} and {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(options.choose_files(main))
