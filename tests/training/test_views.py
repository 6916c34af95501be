from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from configs.training import ViewSettings
from copytrace.errors import MediaError
from copytrace.synthesis.edit_tracking import Strength
from copytrace.synthesis.edited_set import Difficulty
from copytrace.synthesis.edits import EDITS
from copytrace.training import views
from copytrace.training.photos import TrainingPhoto, group_numbers
from copytrace.training.views import NO_DONOR, ViewExamples, sscd_view

Pixels = NDArray[np.uint8]
Example = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def photo_list(tmp_path_factory: pytest.TempPathFactory, photos: Mapping[str, Pixels]) -> list[TrainingPhoto]:
    """Eight photos, 100 pixels high, two of each of four groups."""
    folder = tmp_path_factory.mktemp("photos")
    made = []
    for name, pixels in photos.items():
        for turn in range(2):
            path = folder / f"{name}{turn}.png"
            Image.fromarray(np.rot90(pixels[:100, :150], turn)).save(path)
            made.append(TrainingPhoto(f"{name}/{turn}", str(path), name))
    return made


def examples_of(photos: list[TrainingPhoto], *, seed: int = 0, **changes: Any) -> ViewExamples:
    return ViewExamples(photos, ViewSettings.model_validate(changes), input_size=32, long_side=96, seed=seed)


def red_and_blue(folder: Path) -> list[TrainingPhoto]:
    """A red photo of group number 1, then a blue one of group number 0."""
    Image.new("RGB", (80, 60), (230, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (80, 60), (0, 0, 230)).save(folder / "blue.png")
    return [TrainingPhoto(name, str(folder / f"{name}.png"), group) for name, group in (("red", "z"), ("blue", "a"))]


def share_of_blue(example: Example) -> NDArray[np.float64]:
    """Of each view."""
    return np.asarray((np.abs(example["views"] - np.array([0, 0, 230])).sum(axis=-1) < 30).mean(axis=(1, 2)))


def same(one: Example, other: Example) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_same_epoch_and_index_give_the_same_bytes(photo_list: list[TrainingPhoto]) -> None:
    examples = examples_of(photo_list)
    for index in range(len(examples)):
        assert same(examples.example(3, index), examples_of(photo_list).example(3, index))


def test_another_epoch_or_seed_gives_other_views(photo_list: list[TrainingPhoto]) -> None:
    examples = examples_of(photo_list)
    for index in range(len(examples)):
        assert not same(examples.example(0, index), examples.example(1, index))
        assert not same(examples.example(0, index), examples_of(photo_list, seed=1).example(0, index))


def test_a_worker_process_would_make_the_same(photo_list: list[TrainingPhoto]) -> None:
    examples = examples_of(photo_list)
    examples.example(0, 0)
    assert same(pickle.loads(pickle.dumps(examples)).example(2, 5), examples.example(2, 5))


def test_an_example_has_its_views_and_says_of_what(photo_list: list[TrainingPhoto]) -> None:
    example = examples_of(photo_list, views=3).example(0, 5)
    assert (example["views"].shape, example["views"].dtype) == ((3, 32, 32, 3), np.uint8)
    assert (example["donors"].shape, example["donors"].dtype) == ((3,), np.int64)
    assert (example["photo"].tolist(), example["group"].tolist()) == ([5] * 3, [group_numbers(photo_list)[5]] * 3)
    assert example["photo"].dtype == example["group"].dtype == np.int64


def test_first_views_are_the_plain_photo_as_often_as_set(photo_list: list[TrainingPhoto]) -> None:
    first = [examples_of(photo_list, reference_share=1.0).example(epoch, 2)["views"][0] for epoch in range(4)]
    assert all(np.array_equal(view, first[0]) for view in first)
    plain = np.asarray(Image.open(photo_list[2].path).resize((32, 32), Image.Resampling.BOX), np.float32)
    assert np.abs(first[0] - plain).mean() < 6
    edited = [examples_of(photo_list, reference_share=0.0).example(epoch, 2)["views"][0] for epoch in range(4)]
    assert not any(np.array_equal(view, first[0]) for view in edited)


@pytest.mark.parametrize("edits", [1, 4])
def test_the_donors_group_is_told_where_a_donor_is_seen_and_nowhere_else(
    edits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four strong edits hide the photo at times, and are then taken back; the others must leave the colours alone.
    others = frozenset(edit.name for edit in EDITS.values() if edit.kind in {"photo", "decor"})
    weights = {"overlay": 2.0, "geometry": 1.0}
    monkeypatch.setattr(views, "SSCD_SHARE", 0.0)
    monkeypatch.setattr(views, "COPIES", Difficulty((edits, edits), Strength(0.5, 1), weights, unused=others))
    examples = examples_of(red_and_blue(tmp_path), views=8, reference_share=0)
    donors = []
    for epoch in range(6):
        example = examples.example(epoch, 0)
        assert (share_of_blue(example)[example["donors"] == 0] > 0).all()
        assert (share_of_blue(example)[example["donors"] != 0] == 0).all()
        donors += example["donors"].tolist()
    assert set(donors) == {NO_DONOR, 0, 1}


def test_an_unreadable_photo_gives_way_to_the_next(photo_list: list[TrainingPhoto], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(Path(photo_list[1].path).read_bytes()[:200])
    broken = [photo_list[0], TrainingPhoto("cut", str(tmp_path / "cut.png"), "cut"), *photo_list[2:]]
    example = examples_of(broken).example(0, 1)
    assert (example["photo"].tolist(), example["group"].tolist()) == ([2, 2], [group_numbers(broken)[2]] * 2)
    last = [*photo_list[:-1], TrainingPhoto("cut", str(tmp_path / "cut.png"), "cut")]
    assert examples_of(last).example(0, len(last) - 1)["photo"].tolist() == [0, 0]


def test_nothing_left_to_read_is_told(tmp_path: Path) -> None:
    gone = [TrainingPhoto(name, str(tmp_path / name), name) for name in ("a", "b")]
    with pytest.raises(MediaError, match="none of the photos can be read any more"):
        examples_of(gone).example(0, 0)


def test_random_numbers_of_others_are_left_alone(photo_list: list[TrainingPhoto]) -> None:
    examples = examples_of(photo_list, reference_share=0.0)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for index in range(len(examples)):
        examples.example(0, index)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_views_do_not_depend_on_random_numbers_of_others(photo_list: list[TrainingPhoto]) -> None:
    examples = examples_of(photo_list, reference_share=0.0)
    torch.manual_seed(1)
    first = [examples.example(0, index) for index in range(4)]
    torch.manual_seed(2)
    assert all(same(examples.example(0, index), first[index]) for index in range(4))


@pytest.mark.parametrize("size", [32, 65, 224])
def test_sscds_transforms_give_a_square_that_follows_from_the_generator(
    photo_list: list[TrainingPhoto], size: int
) -> None:
    with Image.open(photo_list[0].path) as image:
        made = [sscd_view(image.convert("RGB"), size, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert [(view.mode, view.size) for view in made] == [("RGB", (size, size))] * 3
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()
