"""Commands that train networks and calibrate scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from configs.load import load_settings
from configs.training import AlignerTraining, CodebookTraining, DescriptorTraining, OverlayTraining, PairTraining
from copytrace.cli.options import (
    CodebookOverrides,
    Config,
    DescriptorOverrides,
    DescriptorPreset,
    OverlayOverrides,
    Photos,
    TrainingFolder,
    TrainingPreset,
)
from copytrace.errors import CopytraceError

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN GROUND_TRUTH [RUN GROUND_TRUTH]... [NAME=VALUE]...",
        help="Folders of match-videos, each followed by its ground truth CSV; then settings, such as loop.epochs=50.",
    ),
]
_SETTING = re.compile(r"[a-z_.]+=")  # a path of this form can be given as ./path


def train_descriptor(
    photos: Annotated[str, Photos],
    out: Annotated[str, TrainingFolder],
    overrides: DescriptorOverrides = None,
    preset: DescriptorPreset = "cpu",
    config: Config = None,
) -> None:
    """Train the global descriptor on PHOTOS; use it by descriptor.model=OUT."""
    settings = load_settings(DescriptorTraining, preset, config, overrides or ())
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.training.descriptor import train_descriptor as train  # noqa: PLC0415

    train(photos, out, settings, progress=TerminalProgress())
    _print_result(out, "descriptor.model")


def train_overlay_detector(
    photos: Annotated[str, Photos],
    out: Annotated[str, TrainingFolder],
    overrides: OverlayOverrides = None,
    preset: TrainingPreset = "cpu",
    config: Config = None,
) -> None:
    """Train the detector of pasted pictures on composites of PHOTOS; use it by overlay.detector=OUT."""
    settings = load_settings(OverlayTraining, preset, config, overrides or ())
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.training.overlay import train_overlay_detector as train  # noqa: PLC0415

    train(photos, out, settings, progress=TerminalProgress())
    _print_result(out, "overlay.detector")


def train_aligner(
    runs: Runs,
    out: Annotated[str, TrainingFolder],
    preset: TrainingPreset = "cpu",
    config: Config = None,
) -> None:
    """Train the network that finds copied segments on RUNs of match-videos and their ground truths."""
    pairs, overrides = parse_runs(runs)
    settings = load_settings(AlignerTraining, preset, config, overrides)
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.training.aligner import train_aligner as train  # noqa: PLC0415

    train(pairs, out, settings, progress=TerminalProgress())
    _print_result(out, "alignment.model", "match-videos")


def train_pair_classifier(
    runs: Runs,
    out: Annotated[str, TrainingFolder],
    preset: TrainingPreset = "cpu",
    config: Config = None,
) -> None:
    """Train the network that drops candidate pairs on RUNs of match-videos and their ground truths."""
    pairs, overrides = parse_runs(runs)
    settings = load_settings(PairTraining, preset, config, overrides)
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.storage import require_writable  # noqa: PLC0415
    from copytrace.training.pair_classifier import train_pair_classifier as train  # noqa: PLC0415

    train(pairs, require_writable(out), settings, progress=TerminalProgress())
    _print_result(out, "alignment.pair_filter", "match-videos")


def train_codebook(
    photos: Annotated[str, Photos],
    out: Annotated[str, typer.Option(help="The codebook file to write; use it by local.codebook=FILE.")],
    overrides: CodebookOverrides = None,
    config: Config = None,
) -> None:
    """Fit the lists and codes of local points to PHOTOS, which should be neither references nor copies of them."""
    settings = load_settings(CodebookTraining, config=config, overrides=overrides or ())
    from copytrace.cli.progress import TerminalProgress  # noqa: PLC0415
    from copytrace.training.point_codebook import train_point_codebook  # noqa: PLC0415

    result = train_point_codebook(photos, out, settings, TerminalProgress())
    for photo, reason in result.failures:
        typer.echo(f"  {photo}: {reason}", err=True)
    typer.echo(
        f"wrote {out}: {settings.cells * settings.lists:,} lists, from {result.points:,} points of {result.photos:,} "
        f"photos; use it by local.codebook={out}"
    )


def calibrate(
    out: Annotated[str, typer.Option(help="The calibration file to write; use it by merge.calibration=FILE.")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="RUN GROUND_TRUTH pairs: a folder of match-images and its ground truth. Without any, only the model "
            "of thumbnails is fitted, to the lookalikes."
        ),
    ] = None,
    lookalikes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN,GROUND_TRUTH",
            help="A run with pictures that share letters or a frame but are no copies; may be given several times. "
            "Without it, how such pictures are told from copies stays as shipped.",
        ),
    ] = None,
) -> None:
    """Fit the score to your own photos with known copies, so that it is a probability."""
    others = [(run, truth) for run, _, truth in (words.rpartition(",") for words in lookalikes or ())]
    runs = runs or []
    if len(runs) % 2 or not all(run for run, _ in others):
        raise CopytraceError("give pairs of a run's folder and its ground truth CSV")
    from copytrace.training.calibration import DOUBTFUL, fit_calibration  # noqa: PLC0415

    fit = fit_calibration(list(zip(runs[::2], runs[1::2], strict=True)), out, lookalikes=others)
    typer.echo(f"wrote {out}; the expected calibration error on the pairs of the fit is {fit.error:.4f}")
    if len(fit.doubtful):
        highest = fit.doubtful.iloc[0]
        typer.echo(
            f"  pairs that no ground truth lists but that score {DOUBTFUL} or more: {len(fit.doubtful):,}; the highest "
            f"is {highest.query_id} with {highest.reference_id}, {highest.score:.2f}. Pairs that show the same picture "
            "spoil the fit: list them as copies, or use references without near-duplicates, and fit again",
            err=True,
        )


def parse_runs(words: list[str]) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Split the words of a command into pairs of a run and its ground truth, and settings.

    Raises `CopytraceError` when they are not pairs.
    """
    from copytrace.storage import resolve_path  # noqa: PLC0415

    overrides = [word for word in words if _SETTING.match(word)]
    paths = [resolve_path(word) for word in words if not _SETTING.match(word)]
    if not paths or len(paths) % 2:
        raise CopytraceError("give pairs of a match-videos folder and its ground truth CSV, then settings")
    return list(zip(paths[::2], paths[1::2], strict=True)), overrides


def _print_result(out: str, setting: str, command: str = "match-images") -> None:
    from copytrace.storage import resolve_path  # noqa: PLC0415
    from copytrace.training.training_result import CARD, read_result  # noqa: PLC0415

    folder = resolve_path(out)
    result = read_result(folder)
    metric = result.metrics[result.score]
    typer.echo(f"{result.score} {metric:.4f} after epoch {result.best_epoch}, in {result.seconds / 60:,.0f} minutes")
    typer.echo(f"  card   {folder / CARD}")
    typer.echo(f"  use it copytrace {command} QUERIES REFERENCES --out RUN {setting}={out}")
