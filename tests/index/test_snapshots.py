"""Indexes that are updated while they are searched: what a search writes comes from one state of each."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.images import ImageSettings
from copytrace import images
from copytrace.errors import CopytraceError, IndexChangedError, InputError
from copytrace.images import match_images
from copytrace.index import image_index, media_index
from copytrace.index.image_index import ImageIndex, plan_images
from copytrace.index.image_segments import open_segments
from copytrace.index.plan_file import read_plan
from copytrace.index.snapshots import ATTEMPTS, search_unchanged
from copytrace.lease import hold_lease
from copytrace.step import SilentProgress, StepProgress
from copytrace.storage import remove_file, write_json

Pixels = NDArray[np.uint8]
Build = Callable[..., tuple[ImageIndex, list[int]]]
WritePhotos = Callable[[Path, Mapping[str, Pixels]], Path]


@pytest.fixture
def index(
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
) -> ImageIndex:
    folder = write_photos(tmp_path / "photos", {name: photos[name] for name in ("astronaut", "chelsea", "coffee")})
    return build_index(folder, tmp_path / "index", "references", image_settings)[0]


def replace_coffee(index: ImageIndex, build: Build, settings: ImageSettings) -> None:
    """Update the index: the first photo of its second shard is gone, so that files of the index are deleted."""
    (index.root.parent / "photos" / "coffee.png").unlink(missing_ok=True)
    build(index.root.parent / "photos", index.root, "references", settings)


def test_an_index_that_is_updated_during_a_match_is_matched_as_it_is_then(
    index: ImageIndex,
    photos: dict[str, Pixels],
    write_photos: WritePhotos,
    build_index: Build,
    image_settings: ImageSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "load_image_models", image_index.load_image_models)

    class Updating(SilentProgress):
        @contextmanager
        def step(self, name: str, total: int, unit: str) -> Iterator[StepProgress]:
            if name == "score pairs":  # its points of coffee.png are deleted under it
                replace_coffee(index, build_index, image_settings)
            with super().step(name, total, unit) as step:
                yield step

    queries = write_photos(
        tmp_path / "queries", {"first": photos["coffee"][:, ::-1].copy(), "second": photos["chelsea"][:, ::-1].copy()}
    )
    run = match_images(queries, index.root, tmp_path / "out", image_settings, Updating())
    assert run["counts"]["references"] == 2
    again = match_images(queries, index.root, tmp_path / "again", image_settings)
    assert again["counts"] == run["counts"]
    assert (tmp_path / "out" / "matches.csv").read_bytes() == (tmp_path / "again" / "matches.csv").read_bytes()


def test_a_search_of_an_index_that_never_rests_is_given_up_in_one_line(index: ImageIndex) -> None:
    calls: list[int] = []

    def search() -> None:
        calls.append(1)
        write_json(index.root / "index.json", index.provenance | {"calls": len(calls)})
        raise KeyError("what was deleted meanwhile")

    with pytest.raises(
        IndexChangedError, match=f"one of these was changed {ATTEMPTS} times while it was searched; run"
    ):
        search_unchanged([index.root], search)
    assert len(calls) == ATTEMPTS


def test_an_error_of_a_search_stays_what_it_is_if_the_index_did_not_change(index: ImageIndex) -> None:
    def search() -> None:
        raise CopytraceError("no memory")

    with pytest.raises(CopytraceError, match="no memory"):
        search_unchanged([index.root], search)


def test_an_index_whose_segments_are_being_made_is_told_with_who_makes_them(index: ImageIndex) -> None:
    remove_file(index.root / "segments" / "segments.json")
    with (
        hold_lease(index.root),
        pytest.raises(InputError, match=r"index is being updated by `.*; run the same command"),
    ):
        open_segments(index)
    with pytest.raises(InputError, match="index lacks the segments that a search needs"):
        open_segments(index)


def test_of_an_index_that_was_half_deleted_for_another_model_nothing_is_taken_over(
    index: ImageIndex, image_settings: ImageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ImageSettings.model_validate(image_settings.model_dump(by_alias=True) | {"local": {"stretches": []}})
    photos = str(index.root.parent / "photos")
    for deletions in itertools.count():
        root = shutil.copytree(index.root, tmp_path / f"stopped-{deletions}")
        with monkeypatch.context() as patch:
            left = itertools.repeat(None, deletions)
            for name in ("remove_file", "remove_tree"):
                patch.setattr(media_index, name, stop_after(left, getattr(media_index, name)))
            with suppress(KeyboardInterrupt):
                plan_images(photos, root, "references", other, replace=True)
        was_stopped = (root / "index.json").exists()
        assert plan_images(photos, root, "references", other, replace=True) == [0, 1]
        assert read_plan(root).kept == {}
        if not was_stopped:
            break
    assert deletions > 8


def stop_after(left: Iterator[None], act: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return `act`, which is interrupted as if the process was killed, once `left` is used up."""

    def act_or_stop(path: Path) -> None:
        try:
            next(left)
        except StopIteration:
            raise KeyboardInterrupt from None
        act(path)

    return act_or_stop
