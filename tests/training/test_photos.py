from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.training import PhotoSettings
from copytrace.errors import InputError, MediaError
from copytrace.training.photos import (
    PhotoSplit,
    TrainingPhoto,
    group_numbers,
    load_photo,
    random_generator,
    split_photos,
)


def written(folder: Path, names: Sequence[str]) -> Path:
    """Files by these names; what they hold does not matter, as splitting opens none."""
    for name in names:
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def split(folder: Path, share: float = 0.3, limit: int = 500, grouped: str = "none") -> PhotoSplit:
    values = {"validation_share": share, "validation_limit": limit, "grouped": grouped}
    return split_photos(str(folder), PhotoSettings.model_validate(values))


def names(photos: Sequence[TrainingPhoto]) -> set[str]:
    return {photo.id for photo in photos}


def test_photos_are_split_into_those_to_learn_from_and_to_validate_on(tmp_path: Path) -> None:
    ids = [f"p{number:03d}" for number in range(200)]
    found = split(written(tmp_path, ids))
    assert names(found.train) | names(found.validation) == set(ids)
    assert not names(found.train) & names(found.validation)
    assert 40 <= len(found.validation) <= 80
    assert found == split(tmp_path)


def test_photos_that_are_added_leave_the_others_where_they_were(tmp_path: Path) -> None:
    before = split(written(tmp_path, [f"p{number:03d}" for number in range(50)]))
    after = split(written(tmp_path, [f"added{number:03d}" for number in range(50)]))
    assert names(before.train) < names(after.train)
    assert names(before.validation) < names(after.validation)
    assert before.digest != after.digest
    assert before.validation_digest != after.validation_digest


def test_what_is_learned_from_does_not_name_what_validates(tmp_path: Path) -> None:
    found = split(written(tmp_path, [f"p{number:03d}" for number in range(50)]))
    Path(found.train[0].path).write_bytes(b"another picture")
    changed = split(tmp_path)
    assert changed.digest != found.digest
    assert changed.validation_digest == found.validation_digest


def test_stills_of_one_video_are_never_on_both_sides(tmp_path: Path) -> None:
    ids = [f"video{video:02d}/{still}" for video in range(30) for still in range(4)]
    found = split(written(tmp_path, ids), grouped="folder")
    assert not {photo.group for photo in found.train} & {photo.group for photo in found.validation}
    assert len({photo.group for photo in found.validation}) == len(found.validation)
    kept_out = {f"video{video:02d}" for video in range(30)} - {photo.group for photo in found.train}
    assert {photo.group for photo in found.validation} == kept_out
    assert len(found.train) == 4 * (30 - len(kept_out))
    assert len({photo.group for photo in split(tmp_path).train}) == len(split(tmp_path).train)


def test_stills_that_are_added_leave_their_video_where_it_was(tmp_path: Path) -> None:
    written(tmp_path, [f"video{video:02d}/0" for video in range(30)])
    before = {photo.group for photo in split(tmp_path, grouped="folder").train}
    written(tmp_path, [f"video{video:02d}/{still}" for video in range(30) for still in range(5)])
    assert {photo.group for photo in split(tmp_path, grouped="folder").train} == before


def test_photos_outside_any_folder_are_groups_of_their_own(tmp_path: Path) -> None:
    found = split(written(tmp_path, [f"p{number}" for number in range(40)]), grouped="folder")
    assert len({photo.group for photo in found.train}) == len(found.train)


def test_no_more_photos_validate_than_are_asked_for_and_none_of_the_rest_is_learned_from(tmp_path: Path) -> None:
    written(tmp_path, [f"p{number:03d}" for number in range(100)])
    found, few = split(tmp_path), split(tmp_path, limit=5)
    assert len(few.validation) == 5
    assert names(few.validation) < names(found.validation)
    assert names(few.train) == names(found.train)


@pytest.mark.parametrize(("count", "share"), [(3, 0.3), (30, 0.001), (30, 0.999)])
def test_too_few_photos_on_either_side_are_told(tmp_path: Path, count: int, share: float) -> None:
    written(tmp_path, [f"p{number:03d}" for number in range(count)])
    with pytest.raises(InputError, match=rf"^{count} photos leave \d+ for training and \d+ for validation; give more"):
        split(tmp_path, share)


@pytest.mark.parametrize(("size", "expected"), [((300, 100), (90, 30)), ((100, 300), (30, 90)), ((60, 40), (60, 40))])
def test_a_photo_is_reduced_to_its_long_side(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "a.png")
    photo = load_photo(str(tmp_path / "a.png"), 90)
    assert (photo.mode, photo.size) == ("RGB", expected)
    assert photo.getpixel((5, 5)) == (10, 200, 30)


@pytest.mark.parametrize("name", ["text.jpg", "absent.jpg"])
def test_an_unreadable_photo_is_a_media_error(tmp_path: Path, name: str) -> None:
    written(tmp_path, ["text"])
    with pytest.raises(MediaError):
        load_photo(str(tmp_path / name), 90)


def test_groups_are_numbered_alike_for_photos_of_one_group() -> None:
    photos = [TrainingPhoto(str(number), "", group) for number, group in enumerate("bab")]
    assert group_numbers(photos).tolist() == [1, 0, 1]
    assert group_numbers(photos).dtype == np.int64


def test_a_generator_follows_from_its_numbers() -> None:
    draws = {numbers: random_generator(*numbers).random() for numbers in [(0, 1, 2), (0, 2, 1), (1, 1, 2)]}
    assert len(set(draws.values())) == 3
    assert random_generator(0, 1, 2).random() == draws[0, 1, 2]
