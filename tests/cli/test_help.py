"""What the help of the commands says of settings."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.load import load_settings
from configs.settings import Settings
from configs.training import AlignerTraining, CodebookTraining, DescriptorTraining, OverlayTraining, PairTraining
from configs.videos import VideoSettings
from copytrace.cli import app

SETTINGS: dict[str, type[Settings]] = {
    "match-images": ImageSettings,
    "index-images": ImageSettings,
    "match-videos": VideoSettings,
    "index-videos": VideoSettings,
    "train-descriptor": DescriptorTraining,
    "train-overlay-detector": OverlayTraining,
    "train-aligner": AlignerTraining,
    "train-pair-classifier": PairTraining,
    "train-codebook": CodebookTraining,
}


@pytest.mark.parametrize("command", SETTINGS)
def test_the_settings_that_a_command_names_as_examples_are_its_own(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).stdout
    told = re.search(r"settings, such as (.*?)\.\s", shown, re.IGNORECASE)
    assert told, shown
    examples = told[1].split()
    assert load_settings(SETTINGS[command], overrides=examples) != load_settings(SETTINGS[command])
