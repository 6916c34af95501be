"""Flow that trains the global descriptor, registers it, and makes it the champion if it is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.training import DescriptorTraining
from copytrace.cli import options
from flows.parameters import (
    DescriptorOverrides,
    DescriptorPreset,
    MinImprovement,
    Out,
    Photos,
    flow_settings,
    parameters_from_cli,
)
from flows.terminal import terminal_session
from tasks.storage_access import require_writable
from tasks.train import DESCRIPTOR, promote, train


@flow(name="train-descriptor", flow_run_name="train the descriptor on {photos}")
def train_descriptor(
    photos: Photos,
    out: Out,
    preset: DescriptorPreset = "cpu",
    overrides: DescriptorOverrides = {},  # noqa: B006
    min_improvement: MinImprovement = 0.005,
) -> dict[str, Any]:
    """Train on `photos` in the folder `out`, and return the registered version and whether it became the champion.

    Raises what `copytrace.training.descriptor.train_descriptor` raises, `SettingsError`, and `TrackingError`.
    """
    settings, folder = flow_settings(DescriptorTraining, preset, overrides), require_writable(out)
    version = train(DESCRIPTOR, photos, folder, settings)
    return promote(DESCRIPTOR, version, folder, min_improvement)


def main(
    photos: Annotated[str, options.Photos],
    out: Annotated[Path, options.TrainingFolder],
    overrides: options.DescriptorOverrides = None,
    preset: options.DescriptorPreset = "cpu",
    config: options.Config = None,
    min_improvement: options.MinImprovement = 0.005,
) -> None:
    """Train the global descriptor on PHOTOS, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(DescriptorTraining, preset, config, overrides)
        done = train_descriptor(photos, str(out), **chosen, min_improvement=min_improvement)
        typer.echo(f"{done['name']} version {done['version']}: {done['reason']}")


if __name__ == "__main__":
    typer.run(main)
