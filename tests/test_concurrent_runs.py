"""Real processes that write into one folder at the same moment, and that are killed: nothing is damaged.

`make test-faults` starts COPYTRACE_PAIRS pairs of runs, and not the few of `make test`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from copytrace import images
from copytrace.cli import app
from copytrace.lease import hold_lease, join_run
from tests.child_processes import run_python
from tests.racing_runs import REFUSED

Pixels = NDArray[np.uint8]
PAIRS = int(os.environ.get("COPYTRACE_PAIRS", "3"))


@pytest.fixture
def small_photos(tmp_path: Path, photos: Mapping[str, Pixels], write_photos: Callable[..., Path]) -> Path:
    return write_photos(tmp_path / "photos", {name: cv2.resize(pixels, (80, 60)) for name, pixels in photos.items()})


def start(what: str, *arguments: object) -> tuple[list[list[int]], str]:
    done = run_python("-m", "tests.racing_runs", what, *arguments)
    return json.loads(done.stdout), done.stderr


def content_of(root: Path) -> dict[str, bytes]:
    """What an index consists of, without costs, plans and leases."""
    named = {"manifest.parquet", "index.json", "segments.json"}
    folders = {"points", "views", "descriptors", "thumbnails", "segments"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "cost.json" and (path.name in named or path.parent.name in folders)
    }


@pytest.mark.timeout(7200)
def test_of_runs_that_start_at_the_same_moment_one_works_and_one_is_refused(small_photos: Path, tmp_path: Path) -> None:
    codes, told = start("race", small_photos, tmp_path / "raced", PAIRS)
    assert codes == [[REFUSED, 0]] * PAIRS
    lines = told.splitlines()
    assert len(lines) == PAIRS
    assert all(" is in use by `racing_runs.py race " in line for line in lines)
    contents = [content_of(tmp_path / "raced" / str(number)) for number in range(PAIRS)]
    assert len(contents[0]) == 3 + 2 * 4 + 5
    assert contents == [contents[0]] * PAIRS


def test_a_run_that_was_killed_in_any_step_goes_on_at_once(small_photos: Path, tmp_path: Path) -> None:
    steps = ["describe references", "index segments"]
    codes, _ = start("kill", small_photos, tmp_path / "killed", *steps)
    assert codes == [[-9, 0]] * len(steps)
    first, second = (content_of(tmp_path / "killed" / step) for step in steps)
    assert first == second
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_a_command_says_in_one_line_that_its_folder_is_in_use(
    small_photos: Path, tmp_path: Path, grid_models: tuple[object, None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "load_image_models", lambda descriptor, detector: grid_models)
    out = tmp_path / "out"
    with hold_lease(out), join_run(()):
        for command in (["match-images", str(small_photos), str(small_photos)], ["index-images", str(small_photos)]):
            told = CliRunner().invoke(app, [*command, "--out", str(out)])
            assert told.exit_code == 1
            assert told.stderr.startswith(f"copytrace: {out} is in use by `")
            assert told.stderr.count("\n") == 1
        assert [path.name for path in out.iterdir()] == [".lease"]
