"""A step that does not move ends its process, with a reason."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from copytrace.errors import ConfigError
from copytrace.stall import LIMIT, end_if_stalled

STANDING = """
import time
from copytrace.cli.progress import TerminalProgress
with TerminalProgress().step("describe queries", 400, "images") as step:
    step.advance(3)
    print("begun", flush=True)
    time.sleep(600)
"""
MOVING = """
import time
from copytrace.stall import end_if_stalled
with end_if_stalled("describe queries", 400, "images", print) as step:
    print("begun", flush=True)
    for _ in range(30):
        time.sleep(0.1)
        step.advance()
print("done")
"""


@contextmanager
def running(code: str, minutes: float) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"COPYTRACE_STALL_MINUTES": str(minutes), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def test_a_step_that_stands_still_ends_its_process_in_a_line_that_says_where_it_stood() -> None:
    with running(STANDING, minutes=0.01) as process:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 1
    assert "copytrace: 'describe queries' has stood at 3 of 400 images for 0.01 min, so the run ends here." in told


def test_a_step_that_moves_goes_on_also_after_its_process_was_paused_for_longer() -> None:
    with running(MOVING, minutes=0.02) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate(timeout=300)
        assert (process.returncode, told) == (0, "done\n")


@pytest.mark.parametrize("text", ["nan", "-1", "two", "1e300", "inf"])
def test_a_limit_that_is_no_number_of_minutes_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, text)
    told = re.escape(f"{LIMIT}='{text}' is not a number of minutes; set it to 0 or more")
    with pytest.raises(ConfigError, match=told), end_if_stalled("describe queries", 400, "images", print):
        pass


@pytest.mark.parametrize("text", ["", "0", "0.5", "120"])
def test_a_number_of_minutes_or_none_is_taken(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, text)
    with end_if_stalled("describe queries", 400, "images", print) as step:
        step.advance()
