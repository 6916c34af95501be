"""Flow that trains the aligner, registers it, and makes it the champion if it is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.training import AlignerTraining
from copytrace.cli import options
from copytrace.cli.training import Runs, parse_runs
from flows.parameters import (
    AlignerOverrides,
    LabeledRun,
    LabeledRuns,
    MinImprovement,
    Out,
    TrainingPreset,
    flow_settings,
    parameters_from_cli,
)
from flows.terminal import terminal_session
from tasks.storage_access import require_writable, resolve_path
from tasks.train import ALIGNER, promote, train


@flow(name="train-aligner", flow_run_name="train the aligner into {out}")
def train_aligner(
    runs: LabeledRuns,
    out: Out,
    preset: TrainingPreset = "cpu",
    overrides: AlignerOverrides = {},  # noqa: B006
    min_improvement: MinImprovement = 0.005,
) -> dict[str, Any]:
    """Train on `runs` in the folder `out`, and return the registered version and whether it became the champion.

    Raises what `copytrace.training.aligner.train_aligner` raises, `SettingsError`, and `TrackingError`.
    """
    settings, folder = flow_settings(AlignerTraining, preset, overrides), require_writable(out)
    pairs = [(resolve_path(each.run), resolve_path(each.ground_truth)) for each in runs]
    version = train(ALIGNER, pairs, folder, settings)
    return promote(ALIGNER, version, folder, min_improvement)


def main(
    runs: Runs,
    out: Annotated[Path, options.TrainingFolder],
    preset: options.TrainingPreset = "cpu",
    config: options.Config = None,
    min_improvement: options.MinImprovement = 0.005,
) -> None:
    """Train the aligner on RUNs of match-videos and their ground truths, as a Prefect flow."""
    with terminal_session():
        pairs, overrides = parse_runs(runs)
        chosen = parameters_from_cli(AlignerTraining, preset, config, overrides)
        labeled = [LabeledRun(run=str(run), ground_truth=str(truth)) for run, truth in pairs]
        done = train_aligner(labeled, str(out), **chosen, min_improvement=min_improvement)
        typer.echo(f"{done['name']} version {done['version']}: {done['reason']}")


if __name__ == "__main__":
    typer.run(main)
