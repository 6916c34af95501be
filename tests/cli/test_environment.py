"""What a command is started with: standard streams that are closed, and an encoding of names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
OPENING = """
import sys
from copytrace.__main__ import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:
    print("told", file=sys.stdout)
    print("told", file=sys.stderr)
    file.write(f"{file.fileno() > 2} {sys.stdin.read()!r}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_standard_stream_that_is_closed(closed: str, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", OPENING, str(tmp_path / "file")]
    subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=True)
    assert (tmp_path / "file").read_text() == "True ''"


def test_an_encoding_in_which_names_would_be_misread_is_refused_with_the_cure() -> None:
    other = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "copytrace", "verify", "nowhere"],
        env=ENVIRONMENT | other,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "copytrace: names of files are read as ascii here; set PYTHONUTF8=1, or a locale such as C.UTF-8\n"
    )
