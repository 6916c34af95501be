"""Flows started by hand, from a folder that is not the project's, on a machine that has never run Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows import match_images


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without any Prefect settings; the test runner's own are left out."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(tmp_path / "prefect")}


def run(folder: Path, env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=500
    )


def test_the_settings_of_the_project_hold_in_any_folder(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    script = (
        "from flows.terminal import terminal_session\n"
        "from prefect.settings import get_current_settings\n"
        "with terminal_session():\n"
        "    server = get_current_settings().server\n"
        "    print(server.ephemeral.startup_timeout_seconds, server.analytics_enabled, server.api.port)\n"
    )
    mine = elsewhere | {"PREFECT_SERVER_API_PORT": "4321"}
    assert run(tmp_path, mine, "-c", script).stdout == "120 False 4321\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["local.neighbours=0"], "local.neighbours=0: input should be greater than or equal to 1"),
        (
            ["--runner", "dusk:2"],
            "--runner 'dusk:2' is not a runner; write threads, threads:2, dask:2, or an address such as tcp://dask:8786",
        ),
    ],
)
def test_a_bad_setting_is_refused_before_any_server_is_started(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(match_images, "match_images", lambda *arguments, **settings: begun.append(arguments))
    command = typer.Typer()
    command.command()(match_images.main)
    done = CliRunner().invoke(command, ["q", "r", "--out", str(tmp_path / "o"), *words])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"copytrace: {told}\n"
    assert not begun
    assert not (tmp_path / "o").exists()
