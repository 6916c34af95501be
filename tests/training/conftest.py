"""What the tests of training share: small photos, their split, settings that are quick, and a run with its truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.multiprocessing.spawn import start_processes

from configs.training import DescriptorTraining
from copytrace.training import distributed
from copytrace.training.descriptor_validation import ValidationSet
from copytrace.training.photos import PhotoSplit, split_photos
from tests.killed_flows import write_matched_videos

Pixels = NDArray[np.uint8]
ARCHITECTURE = "test_efficientnet"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one core while a module's tests run, as results of several threads are not quite the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def server_of_forks() -> None:
    """A process that has imported what a training imports, from which others are forked; an earlier one imported less.

    Python has no public way to end that one.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    get_context("forkserver").set_forkserver_preload(["copytrace.training.contrastive"])


@pytest.fixture
def forked_from_one_import(server_of_forks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start from one that has imported torch already, as the start is not what these tests are about."""
    monkeypatch.setattr(distributed, "spawn", partial(start_processes, start_method="forkserver"))


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., DescriptorTraining]:
    """Return a function that makes settings of the descriptor's training, of which `loop` adds to the quick ones."""

    def make(**changes: Any) -> DescriptorTraining:
        loop = {"epochs": 2, "batch_size": 4, "workers": 0, "threads": 1, "device": "cpu", "learning_rate": 0.003}
        values = {
            "architecture": ARCHITECTURE,
            "start": "random",
            "dimensions": 16,
            "input_size": 32,
            "described_size": 48,
            "memory": 8,
            "frozen_blocks": 1,
            "photos": {"validation_share": 0.35, "long_side": 96, "validation_copies": 2},
            "loop": loop | changes.pop("loop", {}),
        }
        return DescriptorTraining.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, photos: Mapping[str, Pixels]) -> str:
    """Sixteen small photos, four crops of each of four."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in photos.items():
        for number in range(4):
            top, left = divmod(number, 2)
            Image.fromarray(pixels[90 * top :, 140 * left :][:90, :140]).save(folder / f"{name}{number}.png")
    return str(folder)


@pytest.fixture(scope="session")
def split(source: str, settings_of: Callable[..., DescriptorTraining]) -> PhotoSplit:
    """Which of them are learned from, and which validate."""
    return split_photos(source, settings_of().photos)


@pytest.fixture(scope="session")
def validation(split: PhotoSplit, settings_of: Callable[..., DescriptorTraining]) -> ValidationSet:
    """Two copies of each of the latter, at 48 pixels."""
    return ValidationSet.create(split.validation, split.train, settings_of().photos, 48)


@pytest.fixture(scope="session")
def video_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run of match-videos, and its ground truth; see `write_matched_videos`."""
    root = tmp_path_factory.mktemp("video-run")
    write_matched_videos(root)
    return root / "run", root / "truth.csv"
