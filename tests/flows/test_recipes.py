"""The steps that the flows name in their docstrings are those that their recipes run, in that order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from prefect import Flow

from configs.images import ImageSettings
from configs.videos import VideoSettings
from copytrace import images, videos
from copytrace.index import image_index, video_index
from flows.index_images import index_images
from flows.index_videos import index_videos
from flows.match_images import match_images
from flows.match_videos import match_videos
from tasks.image_steps import IMAGE_STEPS
from tasks.runners import Tasks
from tasks.video_steps import VIDEO_STEPS

P = ParamSpec("P")
R = TypeVar("R")
Pixels = NDArray[np.uint8]


class RecordingRunner:
    """A runner that calls the steps and records the names of their tasks in the order of their first calls."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.names: list[str] = []

    def run(self, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        name = self._tasks[step].name
        if name not in self.names:
            self.names.append(name)
        return step(*args, **kwargs)

    def run_shards(self, shards: Sequence[int], *steps: Callable[..., Any], **arguments: Any) -> None:
        assert shards
        for shard in shards:
            for step in steps:
                self.run(step, shard=shard, **arguments)


def steps_in_docstring(flow: Flow[..., Any]) -> list[str]:
    """Return the names after "Steps:" in the docstring, without what stands in parentheses."""
    found = re.search(r"Steps: ([^.]+)\.", flow.fn.__doc__ or "")
    assert found is not None
    return re.sub(r"\s*\([^)]*\)", "", " ".join(found[1].split())).split(", ")


def names_of(tasks: Tasks) -> list[str]:
    return [task.name for task in tasks.values()]


@pytest.fixture
def grid_everywhere(use_grid_descriptor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks, too, load `GridDescriptor`."""
    monkeypatch.setattr(images, "load_image_models", image_index.load_image_models)
    monkeypatch.setattr(videos, "load_video_models", video_index.load_video_models)


@pytest.fixture
def video_settings() -> VideoSettings:
    """Settings without networks."""
    return VideoSettings.model_validate(
        {
            "media": {"shard_size": 2, "threads": 2},
            "panes": {"detector": "none"},
            "descriptor": {"input_size": 32},
            "alignment": {"aligner": "hough", "pair_filter": "none"},
        }
    )


@pytest.mark.usefixtures("grid_everywhere")
def test_the_flows_of_images_name_the_steps_of_their_recipes(
    photos: dict[str, Pixels],
    write_photos: Callable[[Path, Mapping[str, Pixels]], Path],
    image_settings: ImageSettings,
    tmp_path: Path,
) -> None:
    queries = write_photos(tmp_path / "queries", {"flipped": photos["chelsea"][:, ::-1]})
    references = write_photos(tmp_path / "references", {name: photos[name] for name in ("chelsea", "coffee")})

    matching, indexing = RecordingRunner(IMAGE_STEPS), RecordingRunner(IMAGE_STEPS)
    images.match_images(queries, references, tmp_path / "out", image_settings, runner=matching)
    images.index_images(references, tmp_path / "index", image_settings, runner=indexing)

    of_older_indexes = {"add-thumbnails"}
    assert steps_in_docstring(match_images) == matching.names
    assert matching.names == [name for name in names_of(IMAGE_STEPS) if name not in of_older_indexes]
    assert steps_in_docstring(index_images) == indexing.names


@pytest.mark.usefixtures("grid_everywhere")
def test_the_flows_of_videos_name_the_steps_of_their_recipes(
    video_sides: Path, video_settings: VideoSettings, tmp_path: Path
) -> None:
    queries, references = video_sides / "queries", video_sides / "references"
    (tmp_path / "editing.csv").write_text("id,probability\n")
    video_settings = VideoSettings.model_validate(
        video_settings.model_dump() | {"editing": {"detector": str(tmp_path / "editing.csv")}}
    )

    matching, indexing = RecordingRunner(VIDEO_STEPS), RecordingRunner(VIDEO_STEPS)
    videos.match_videos(queries, references, tmp_path / "out", video_settings, runner=matching)
    videos.index_videos(references, tmp_path / "index", video_settings, runner=indexing)

    assert steps_in_docstring(match_videos) == matching.names == names_of(VIDEO_STEPS)
    assert steps_in_docstring(index_videos) == indexing.names
