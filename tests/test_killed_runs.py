"""Runs that are killed at random moments go on where they were, and end as if nothing had happened.

`make test-faults` kills COPYTRACE_KILLS runs of each flow, and not the one of `make test`; COPYTRACE_SEED chooses when.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.child_processes import run_python
from tests.killed_flows import FLOWS, write_matched_videos

Pixels = NDArray[np.uint8]
KILLS = int(os.environ.get("COPYTRACE_KILLS", "0"))
SEED = os.environ.get("COPYTRACE_SEED", "1")
ALWAYS = "match-images"
DECODING = ("index-images", "match-images", "index-videos", "match-videos")


@pytest.fixture
def media(
    tmp_path: Path,
    photos: Mapping[str, Pixels],
    write_photos: Callable[..., Path],
) -> Path:
    """Small photos: five references, four of them again as queries, mirrored, and parts of them to learn from."""
    root = tmp_path / "media"
    small = {name: cv2.resize(pixels, (80, 60)) for name, pixels in photos.items()}
    write_photos(root / "photos" / "references", small | {"turned": small["coffee"][::-1]})
    write_photos(root / "photos" / "queries", {name: pixels[:, ::-1] for name, pixels in small.items()})
    parts = {
        f"{name}{left}": pixels[:90, left : left + 140] for name, pixels in photos.items() for left in (0, 80, 160)
    }
    write_photos(root / "photos" / "training", parts)
    return root


def add_other_media(what: str, media: Path, request: pytest.FixtureRequest) -> None:
    """Add what a flow needs besides photos."""
    if "videos" in what:
        (media / "videos").symlink_to(request.getfixturevalue("video_sides"))
    if what in {"train-aligner", "train-pair-classifier"}:
        write_matched_videos(media / "matched")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", FLOWS)
def test_a_run_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(
    what: str, media: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not KILLS and what != ALWAYS:
        pytest.skip("left to make test-faults")
    add_other_media(what, media, request)
    told = tell("runs", what, KILLS or 1, media, tmp_path / what)
    print(
        f"\n{what}: {len(told)} kills; {sum(each['kept'] for each in told)} finished "
        f"shards kept, {sum(len(each['again']) for each in told)} done again; said: "
        f"{sorted({line for each in told for line in each['said'].splitlines()})}"
    )
    for each in told:
        assert each["codes"] == [-9, 0], each
        assert not each["half"], each
        assert not each["again"], each
        assert not each["differ"], each
        assert not each["left"], each


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", DECODING)
def test_a_run_whose_decoder_was_killed_ends_as_if_nothing_had_happened(
    what: str, media: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not KILLS:
        pytest.skip("left to make test-faults")
    add_other_media(what, media, request)
    told = tell("decoders", what, KILLS, media, tmp_path / what)
    print(
        f"\n{what}: {len(told)} decoders killed, {sum(each['killed'] == 'running' for each in told)} while they "
        f"decoded; said: {sorted({line for each in told for line in each['said'].splitlines()})}"
    )
    for each in told:
        assert each["codes"] == [0], each
        assert not each["differ"], each
        assert not each["left"], each


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, whose size can be changed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", FLOWS)
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    what: str, media: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not KILLS:
        pytest.skip("left to make test-faults")
    disk = request.getfixturevalue("small_disk")
    add_other_media(what, media, request)
    told = tell(disk, what, KILLS, media, tmp_path / what)
    print(f"\n{what}: {len(told)} full disks; said: {sorted({each['said'] for each in told})}")
    for each in told:
        assert each["codes"] == [1, 0], each
        assert re.fullmatch(rf"\[Errno 28\] No space left on device: '{disk}/out.*'", each["said"]), each
        assert not each["half"], each
        assert not each["differ"], each


def tell(victims: str | Path, what: str, count: int, media: Path, folder: Path) -> list[dict[str, Any]]:
    """Return what `killed_runs` tells of each run."""
    done = run_python("-m", "tests.killed_runs", victims, what, SEED, count, media, folder)
    return [json.loads(line) for line in done.stdout.splitlines()]
