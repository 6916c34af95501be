"""The options --include and --exclude of the commands that read folders."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from configs.images import ImageSettings
from configs.load import SettingsError, load_settings
from copytrace.cli import app
from copytrace.cli.errors import report_errors
from copytrace.cli.options import Overrides, choose_files


def show(source: str, overrides: Overrides = None, out: str = "out") -> None:
    """Show what is given."""
    media = load_settings(ImageSettings, overrides=overrides or ()).media
    typer.echo(json.dumps([source, out, media.include, media.exclude, media.threads]))


def given(*arguments: str) -> list[object]:
    commands = typer.Typer()
    commands.command()(report_errors(choose_files(show)))
    result = CliRunner().invoke(commands, list(arguments))
    assert result.exit_code == 0, result.output
    found: list[object] = json.loads(result.stdout)
    return found


def test_globs_become_settings_beside_those_that_are_given_by_name() -> None:
    globs = ("--exclude", "*.json", "--include", "a, [b]*.jpg", "--exclude", "raw: 'x'/**")
    assert given("photos", *globs, "media.threads=3", "--out", "there") == [
        *("photos", "there", ["a, [b]*.jpg"], ["*.json", "raw: 'x'/**"], 3)
    ]


def test_without_them_the_settings_stay_as_they_are() -> None:
    assert given("photos", "media.exclude=['*.tif']") == ["photos", "out", [], ["*.tif"], 0]


@pytest.mark.parametrize("command", ["match-images", "index-images", "match-videos", "index-videos"])
def test_the_commands_that_read_folders_have_them(command: str) -> None:
    told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).stdout
    assert "--include" in told
    assert "--exclude" in told


def test_a_glob_must_be_a_text() -> None:
    with pytest.raises(SettingsError, match=r"media\.exclude"):
        load_settings(ImageSettings, overrides=["media.exclude=[1]"])
