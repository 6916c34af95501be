"""The command line. It starts quickly, because each command imports heavy libraries only when it needs them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import typer

from copytrace.cli import images, sets, submissions, training, verify, videos
from copytrace.cli.errors import report_errors
from copytrace.cli.options import choose_files

COMMANDS = "copytrace.commands"
"""Group of entry points through which packages add commands: functions with Typer's annotations."""

app = typer.Typer(help="Find which reference an upload was copied from, and which seconds.", no_args_is_help=True)
evaluate = typer.Typer(help="Measure matches against a ground truth.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")

_COMMANDS: tuple[Callable[..., None], ...] = (
    choose_files(images.match_images),
    choose_files(images.index_images),
    choose_files(videos.match_videos),
    choose_files(videos.index_videos),
    images.compact_index,
    verify.verify,
    training.train_descriptor,
    training.train_overlay_detector,
    training.train_aligner,
    training.train_pair_classifier,
    training.train_codebook,
    training.calibrate,
    sets.edit_images,
    sets.edit_videos,
    sets.draw_images,
    sets.draw_videos,
    sets.video_stills,
    videos.fit_pca,
    videos.import_pca,
    submissions.export_descriptors,
    submissions.import_descriptors,
    submissions.export_matches,
    submissions.submit_check,
)
for command in _COMMANDS:
    app.command()(report_errors(command))
evaluate.command("images")(report_errors(images.evaluate_images))
evaluate.command("videos")(report_errors(videos.evaluate_videos))
evaluate.command("descriptors")(report_errors(submissions.evaluate_descriptors))
evaluate.command("candidates")(report_errors(submissions.evaluate_candidates))
for added in entry_points(group=COMMANDS):
    app.command(added.name)(report_errors(added.load()))
