"""Matching over a growing index in one process for long: memory and handles stay flat, and commands find the same.

COPYTRACE_SOAK_MINUTES says how long, for images and for videos; it takes ten without.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace.images import index_images, match_images
from copytrace.videos import index_videos, match_videos
from tests.child_processes import run_python
from tests.faults.hostile_media import encode_clip

Pixels = NDArray[np.uint8]
SECONDS = 60 * float(os.environ.get("COPYTRACE_SOAK_MINUTES", "10"))
FEWEST = 48  # rounds; what a round takes at most, and so what allocators keep, settles in the first third
NEW = {"images": 4, "videos": 1}  # references of a round
BY_COMMAND = 8  # rounds
MOST = {  # by which each may grow in a round, as a straight line through the last two thirds of the rounds says
    "memory": 0.5,  # MiB, of which the index, four more images or a video longer, takes a part
    "memory of workers": 0.1,
    "handles": 0.5,  # more segments take some, until they are merged
    "threads": 0.05,
    "processes": 0.05,
    "temporary files": 0.05,
}
MATCHES = {"images": "matches.csv", "videos": "segments.csv"}


class Collection:
    """A folder of references that grows, its index, and queries, one of which is copied in each round."""

    def __init__(self, root: Path, kind: str, photos: Mapping[str, Pixels]) -> None:
        self.root, self.kind, self._photos = root, kind, list(photos.values())
        self.references, self.queries, self.index = (root / name for name in ("references", "queries", "index"))
        self.references.mkdir()
        self.queries.mkdir()
        for number in range(2):
            self._write(self.queries / f"query{number}", number, mirrored=True)

    def grow(self, number: int) -> None:
        for seed in range(NEW[self.kind] * number, NEW[self.kind] * (number + 1)):
            self._write(self.references / f"reference{seed:05}", seed)

    def update(self, index: Path) -> None:
        (index_images if self.kind == "images" else index_videos)(self.references, index)

    def match(self, out: Path) -> bytes:
        if self.kind == "images":
            match_images(self.queries, self.index, out, ImageSettings())
        else:
            match_videos(self.queries, self.index, out, VideoSettings())
        return self._result(out)

    def match_by_commands(self, *, anew: bool) -> bytes:
        """Match by a command, if `anew` against an index that another command makes of all references at once."""
        out, index = self.root / "commanded", self.root / "anew" if anew else self.index
        if anew:
            command(f"index-{self.kind}", self.references, "--out", index)
        command(f"match-{self.kind}", self.queries, index, "--out", out)
        try:
            return self._result(out)
        finally:
            shutil.rmtree(out)
            shutil.rmtree(self.root / "anew", ignore_errors=True)

    def _result(self, out: Path) -> bytes:
        return (out / MATCHES[self.kind]).read_bytes()

    def _write(self, path: Path, seed: int, *, mirrored: bool = False) -> None:
        random = np.random.default_rng(seed)
        photo = self._photos[seed % len(self._photos)]
        height, width = photo.shape[0] // 2, photo.shape[1] // 2
        y, x = int(random.integers(photo.shape[0] - height)), int(random.integers(photo.shape[1] - width))
        part = photo[y : y + height, x : x + width]
        part = np.clip(part * random.uniform(0.6, 1.4, 3) + random.uniform(-30, 30, 3), 0, 255).astype(np.uint8)
        part = np.ascontiguousarray(part[:, ::-1] if mirrored else part)
        if self.kind == "images":
            Image.fromarray(part).save(path.with_suffix(".png"))
        else:
            path.with_suffix(".mp4").write_bytes(encode_clip(part, "mp4", pictures=32, size=(80, 56)))


def command(*arguments: object) -> None:
    run_python("-m", "copytrace", *arguments)


def usage() -> dict[str, float]:
    """Return what this process and those that it started hold: MiB written, handles, threads, and processes."""
    own = psutil.Process()
    everyone = [own, *own.children(recursive=True)]
    return {
        "memory": written(own),
        "memory of workers": sum(written(each) for each in everyone[1:]),
        "handles": sum(each.num_fds() for each in everyone),
        "threads": own.num_threads(),
        "processes": len(everyone),
        "temporary files": float(len(list(Path(os.environ["TMPDIR"]).iterdir()))),
    }


def written(process: psutil.Process) -> float:
    """Return the MiB that only this process has, without libraries, which are its own whenever no other uses them."""
    return float(sum(mapping.private_dirty for mapping in process.memory_maps())) / 2**20


def rounds() -> Iterator[int]:
    number, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end or number < FEWEST:
        yield number
        number += 1


@pytest.fixture
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.timeout(36000)
@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_process_that_matches_for_long_takes_no_more_memory_and_handles(
    kind: str, tmp_path: Path, photos: Mapping[str, Pixels], own_temporary_folder: None
) -> None:
    collection, used, compared = Collection(tmp_path, kind, photos), [], 0
    for number in rounds():
        collection.grow(number)
        collection.update(collection.index)
        found = collection.match(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        used.append(usage())
        print(f"{kind}, round {number}: {used[-1]}", flush=True)
        if number % BY_COMMAND == BY_COMMAND - 1:
            assert collection.match_by_commands(anew=number & (number + 1) == 0) == found
            compared += 1
    print(f"\n{len(used)} rounds, {NEW[kind] * len(used)} {kind}, {compared} times the same by commands; at the end:")
    later = used[len(used) // 3 :]
    slopes = {name: float(np.polyfit(range(len(later)), [each[name] for each in later], 1)[0]) for name in used[0]}
    for name, slope in slopes.items():
        print(f"{name}: {used[-1][name]:.0f}, {slope:+.4f} a round in the last two thirds, first {used[0][name]:.0f}")
    assert {name: slope for name, slope in slopes.items() if slope > MOST[name]} == {}
