"""The commands in docs/operate.md are known to the programs that they call, as are the files that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from copytrace.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL))
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
SPANS = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", PROSE)]
LINES = [line.partition("#")[0] for line in [*SHELL.replace("\\\n", " ").splitlines(), *SPANS]]
COMMANDS = sorted({part.strip() for line in LINES for part in line.split("&&")})


def calls_of(program: str) -> list[list[str]]:
    return [words for command in COMMANDS if (words := shlex.split(command))[:1] == [program] and len(words) > 1]


@pytest.mark.parametrize("words", calls_of("copytrace"), ids=" ".join)
def test_a_command_of_copytrace_has_the_options_that_the_page_gives_it(words: list[str]) -> None:
    shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    known = set(re.findall(r"--[a-z-]+", shown.output))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("words", calls_of("make"), ids=" ".join)
def test_a_target_of_make_is_there_and_so_are_its_variables(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words[1:]:
        name, is_variable, _ = word.partition("=")
        wanted = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(wanted, makefile, re.MULTILINE), word


def test_a_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\b((?:deploy|configs|tests|docs|tasks)/[\w@./-]+\.\w+)", PAGE))
    named |= set(re.findall(r"\b((?:compose|prefect)[\w.]*\.(?:yaml|env\.example))", PAGE))
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_page_has_commands_of_each_kind() -> None:
    assert min(len(calls_of(program)) for program in ("copytrace", "make", "prefect", "sh", "systemctl")) > 1
