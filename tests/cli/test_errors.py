from __future__ import annotations

import errno
import os

import pytest
import typer
from typer.testing import CliRunner

from configs.load import SettingsError
from copytrace.cli.errors import report_errors
from copytrace.errors import ConfigError, MediaError


def run(error: Exception | None) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that raises `error`."""
    app = typer.Typer()

    @app.command()
    @report_errors
    def work(times: int = 2) -> None:
        typer.echo("working " * times)
        if error:
            raise error

    result = CliRunner().invoke(app, ["--times", "3"], catch_exceptions=not isinstance(error, KeyError))
    return result.exit_code, result.stdout, result.stderr


def test_a_command_that_succeeds_is_left_alone() -> None:
    assert run(None) == (0, "working working working \n", "")


@pytest.mark.parametrize("kind", [ConfigError, MediaError, SettingsError])
def test_what_the_user_can_mend_is_one_line_and_code_one(kind: type[Exception]) -> None:
    code, output, errors = run(kind("photos is empty; give a folder"))
    assert (code, errors) == (1, "copytrace: photos is empty; give a folder\n")
    assert output.startswith("working")


def test_a_full_disk_is_one_line_that_says_what_is_kept() -> None:
    code, _, errors = run(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/checkpoint.pt"))
    assert code == 1
    assert errors == (
        "copytrace: [Errno 28] No space left on device: 'out/checkpoint.pt'; what was finished is kept, and the same "
        "command goes on from there\n"
    )


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EROFS])
def test_where_the_same_command_cannot_help_another_place_is_to_be_named(number: int) -> None:
    _, _, errors = run(OSError(number, os.strerror(number), "out/matches.csv"))
    assert errors.endswith("'out/matches.csv'; name another place\n")


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.EEXIST])
def test_what_is_in_the_way_is_to_be_moved(number: int) -> None:
    _, _, errors = run(OSError(number, os.strerror(number), "out/matches.csv"))
    assert errors.endswith("'out/matches.csv'; move what is in the way there, and give the same command again\n")


def test_an_error_stays_one_short_line_of_what_a_terminal_only_shows_whatever_the_names_of_files_are() -> None:
    _, _, errors = run(ConfigError("no \x1b]0;title\x07 in \u202egpj.exe\nand \udcff" + "x" * 5000 + "; give é"))
    assert errors.startswith(r"copytrace: no \x1b]0;title\x07 in \u202egpj.exe\nand \udcffxxx")
    assert errors.endswith("; give é\n")
    assert len(errors) < 2100


def test_a_bug_shows_itself() -> None:
    with pytest.raises(KeyError, match="backbone"):
        run(KeyError("backbone"))
