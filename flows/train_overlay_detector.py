"""Flow that trains the overlay detector, registers it, and makes it the champion if it is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow

from configs.training import OverlayTraining
from copytrace.cli import options
from flows.parameters import (
    MinImprovement,
    Out,
    OverlayOverrides,
    Photos,
    TrainingPreset,
    flow_settings,
    parameters_from_cli,
)
from flows.terminal import terminal_session
from tasks.storage_access import require_writable
from tasks.train import OVERLAY_DETECTOR, promote, train


@flow(name="train-overlay-detector", flow_run_name="train the overlay detector on {photos}")
def train_overlay_detector(
    photos: Photos,
    out: Out,
    preset: TrainingPreset = "cpu",
    overrides: OverlayOverrides = {},  # noqa: B006
    min_improvement: MinImprovement = 0.005,
) -> dict[str, Any]:
    """Train on `photos` in the folder `out`, and return the registered version and whether it became the champion.

    Raises what `copytrace.training.overlay.train_overlay_detector` raises, `SettingsError`, and `TrackingError`.
    """
    settings, folder = flow_settings(OverlayTraining, preset, overrides), require_writable(out)
    version = train(OVERLAY_DETECTOR, photos, folder, settings)
    return promote(OVERLAY_DETECTOR, version, folder, min_improvement)


def main(
    photos: Annotated[str, options.Photos],
    out: Annotated[Path, options.TrainingFolder],
    overrides: options.OverlayOverrides = None,
    preset: options.TrainingPreset = "cpu",
    config: options.Config = None,
    min_improvement: options.MinImprovement = 0.005,
) -> None:
    """Train the overlay detector on PHOTOS, as a Prefect flow."""
    with terminal_session():
        chosen = parameters_from_cli(OverlayTraining, preset, config, overrides)
        done = train_overlay_detector(photos, str(out), **chosen, min_improvement=min_improvement)
        typer.echo(f"{done['name']} version {done['version']}: {done['reason']}")


if __name__ == "__main__":
    typer.run(main)
