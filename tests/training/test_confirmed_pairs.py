"""Labeled pairs: which pictures show the same photo, and the examples and the training that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.training import DescriptorTraining, ViewSettings
from copytrace.errors import ConfigError, InputError
from copytrace.training.confirmed_pairs import ConfirmedPairs, read_confirmed_pairs
from copytrace.training.descriptor import train_descriptor
from copytrace.training.log import read_history
from copytrace.training.photos import PhotoSplit, TrainingPhoto
from copytrace.training.views import ViewExamples

COLORS = {"red": (200, 0, 0), "pink": (220, 60, 60), "blue": (0, 0, 200), "green": (0, 200, 0), "gray": (9, 9, 9)}


@pytest.fixture
def split(tmp_path: Path) -> PhotoSplit:
    """Training photos red and green of the groups 1 and 0, and the validating gray, beside pictures of pairs."""
    for name, color in COLORS.items():
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{name}.png")
    photos = {
        name: TrainingPhoto(name, str(tmp_path / f"{name}.png"), group)
        for name, group in (("red", "z"), ("green", "a"))
    }
    return PhotoSplit(
        list(photos.values()), [TrainingPhoto("gray", str(tmp_path / "gray.png"), "g")], "digest", "other"
    )


def pairs_of(folder: Path, split: PhotoSplit, *rows: str, header: str = "query,reference,same") -> ConfirmedPairs:
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")
    return read_confirmed_pairs(str(folder / "pairs.csv"), split)


def test_pictures_that_pairs_join_show_one_photo_and_have_the_number_it_has_in_training(
    tmp_path: Path, split: PhotoSplit
) -> None:
    pairs = pairs_of(tmp_path, split, "pink.png,red.png,1", f"pink.png,{tmp_path / 'blue.png'},0")
    numbers = {
        Path(path).stem: (int(p), int(g)) for path, p, g in zip(pairs.paths, pairs.photo, pairs.group, strict=True)
    }
    assert numbers["red"] == numbers["pink"] == (0, 1)
    assert numbers["blue"][0] > 1
    assert numbers["blue"][1] > 1
    assert [Path(pairs.paths[row]).stem for row in pairs.copies.ravel()] == ["pink", "red"]
    assert [Path(pairs.paths[row]).stem for row in pairs.alike(0)] == ["blue"]


def test_pairs_of_photos_that_validate_are_left_out(tmp_path: Path, split: PhotoSplit) -> None:
    pairs = pairs_of(tmp_path, split, "pink.png,gray.png", "blue.png,green.png", header="query,reference")
    assert [Path(pairs.paths[row]).stem for row in pairs.copies.ravel()] == ["blue", "green"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            ["pink.png,red.png,1", "red.png,blue.png,1", "blue.png,pink.png,0"],
            r"row 3 says that .*blue.* differ, but by",
        ),
        (["pink.png,gray.png,1"], "has no pair of copies to learn from"),
        (["pink.png,red.png,yes"], r"row 1 has same='yes'; write 1, or 0 for look-alikes"),
        (["pink.png,,1"], "has no reference; fill it in"),
    ],
)
def test_pairs_that_cannot_be_used_are_told(rows: list[str], told: str, tmp_path: Path, split: PhotoSplit) -> None:
    with pytest.raises(InputError, match=told):
        pairs_of(tmp_path, split, *rows)


def test_a_labeled_example_has_the_query_the_reference_an_edit_the_lookalike_and_others(
    tmp_path: Path, split: PhotoSplit
) -> None:
    pairs = pairs_of(tmp_path, split, "pink.png,red.png,1", "red.png,blue.png,0")
    settings = ViewSettings(views=3, negatives=2, labeled_share=1.0)
    example = ViewExamples(split.train, settings, 16, 40, 0, pairs).example(0, 1)
    assert example["views"].shape == (5, 16, 16, 3)
    assert [tuple(example["views"][number, 8, 8]) for number in (0, 1, 3)] == [
        COLORS[n] for n in ("pink", "red", "blue")
    ]
    assert example["photo"][:3].tolist() == [0, 0, 0]
    assert example["photo"][3] == pairs.photo[[Path(path).stem for path in pairs.paths].index("blue")]
    assert example["photo"][4] in (0, 1)


def test_a_pair_that_cannot_be_read_gives_way_to_a_photo(tmp_path: Path, split: PhotoSplit) -> None:
    pairs = pairs_of(tmp_path, split, "pink.png,nowhere.png,1")
    settings = ViewSettings(labeled_share=1.0)
    examples = [ViewExamples(split.train, settings, 16, 40, 0, given) for given in (pairs, None)]
    assert examples[0].example(0, 1)["photo"].tolist() == examples[1].example(0, 1)["photo"].tolist() == [1, 1]


@pytest.mark.usefixtures("one_thread")
def test_a_descriptor_is_trained_on_pairs_with_a_margin(
    source: str, tmp_path: Path, settings_of: Callable[..., DescriptorTraining]
) -> None:
    names = sorted(path.name for path in Path(source).rglob("*.png"))
    table = tmp_path / "pairs.csv"
    rows = [f"{source}/{one},{source}/{two},{n % 2}" for n, (one, two) in enumerate(pairwise(names))]
    table.write_text("\n".join(["query,reference,same", *rows]) + "\n")
    settings = settings_of(whitening="off", loss="margin", pairs=str(table), entropy_weight=0.0)
    with pytest.raises(ConfigError, match=r"pictures that only look alike; set views.negatives=1 or more"):
        train_descriptor(source, tmp_path / "refused", settings)
    settings = settings.model_copy(update={"views": settings.views.model_copy(update={"negatives": 1})})
    assert train_descriptor(source, tmp_path / "out", settings).exists()
    first, *_, last = read_history(tmp_path / "out" / "history.jsonl")
    assert 0 < last["margin"] < 2
    assert np.isfinite(first["loss"])
