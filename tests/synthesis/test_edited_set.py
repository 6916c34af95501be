from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from copytrace.errors import ConfigError, InputError, MediaError
from copytrace.synthesis.edited_set import HARD, EditedSetPlan, edit_copy, write_edited_set
from copytrace.synthesis.edits import EDITS, kind_of_edits


@dataclass(frozen=True)
class File:
    id: str
    path: Path


def save_photos(folder: Path, prefix: str, count: int, colour: tuple[int, int, int] | None = None) -> list[File]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        rng = np.random.default_rng([number, len(prefix)])
        coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((160, 120)) if colour is None else Image.new("RGB", (160, 120), colour)
        files.append(File(f"{prefix}{number}", folder / f"{prefix}{number}.png"))
        image.save(files[-1].path)
    return files


@pytest.fixture
def photos(tmp_path: Path) -> list[File]:
    return save_photos(tmp_path / "photos", "R", 4)


@pytest.fixture
def donors(tmp_path: Path) -> list[File]:
    return save_photos(tmp_path / "donors", "donor", 3)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    one = write_edited_set(
        photos, donors, tmp_path / "one", EditedSetPlan(copies=14, distractors=6, difficulty="mixed", seed=7)
    )
    two = write_edited_set(
        photos, donors, tmp_path / "two", EditedSetPlan(copies=14, distractors=6, difficulty="mixed", seed=7), workers=3
    )
    assert len(contents(one)) == 22
    assert contents(one) == contents(two)


def test_another_seed_gives_another_set(photos: list[File], donors: list[File], tmp_path: Path) -> None:
    one, two = (
        write_edited_set(
            photos, donors, tmp_path / f"{s}", EditedSetPlan(copies=6, distractors=2, seed=s, difficulty="mild")
        )
        for s in (1, 2)
    )
    assert (one / "ground_truth.csv").read_bytes() != (two / "ground_truth.csv").read_bytes()


def test_writing_again_over_the_same_set_changes_nothing(
    photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    out = write_edited_set(photos, donors, tmp_path / "set", EditedSetPlan(copies=4, distractors=2, difficulty="mild"))
    before = contents(out)
    write_edited_set(photos, donors, out, EditedSetPlan(copies=4, distractors=2, difficulty="mild"))
    assert contents(out) == before


def test_the_ground_truth_names_every_query_and_shares_copies_out_evenly(
    photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    out = write_edited_set(
        photos, donors, tmp_path / "set", EditedSetPlan(copies=10, distractors=5, difficulty="mixed", seed=1)
    )
    rows = read_rows(out / "ground_truth.csv")
    assert list(rows[0]) == ["query_id", "reference_id", "kind", "edits"]
    assert [row["query_id"] for row in rows] == [f"Q{number:05d}" for number in range(15)]
    assert sorted(path.stem for path in (out / "queries").iterdir()) == [row["query_id"] for row in rows]
    copies = Counter(row["reference_id"] for row in rows)
    assert copies.pop("") == 5
    assert set(copies) == {"R0", "R1", "R2", "R3"}
    assert sorted(copies.values()) == [2, 2, 3, 3]
    assert all(row["kind"] == kind_of_edits(row["edits"].split()) for row in rows)


@pytest.mark.parametrize(("difficulty", "expected"), [("mild", {1, 2}), ("hard", {2, 3, 4})])
def test_a_difficulty_sets_how_many_edits_a_query_gets(
    difficulty: str, expected: set[int], photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    out = write_edited_set(
        photos, donors, tmp_path / "set", EditedSetPlan(copies=30, distractors=10, difficulty=difficulty, seed=3)
    )
    counts = {len(row["edits"].split()) for row in read_rows(out / "ground_truth.csv")}
    assert counts == expected


def test_given_kinds_and_numbers_of_edits_replace_those_of_the_difficulty(
    photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    out = write_edited_set(
        photos,
        donors,
        tmp_path / "set",
        EditedSetPlan(copies=8, distractors=0, kinds={"decor": 1}, edits_per_copy=(3, 3), difficulty="mild"),
    )
    rows = read_rows(out / "ground_truth.csv")
    assert {row["kind"] for row in rows} == {"decor"}
    assert {len(row["edits"].split()) for row in rows} == {3}


def test_the_boxes_file_says_where_each_pasted_photo_lies(tmp_path: Path) -> None:
    lime = save_photos(tmp_path / "lime", "R", 2, (0, 255, 0))
    red = save_photos(tmp_path / "red", "donor", 2, (200, 0, 0))
    out = write_edited_set(
        lime,
        red,
        tmp_path / "set",
        EditedSetPlan(copies=24, distractors=0, kinds={"overlay": 1}, edits_per_copy=(1, 1), seed=2, difficulty="mild"),
    )
    pasted = [row["query_id"] for row in read_rows(out / "ground_truth.csv") if row["edits"] == "onto_photo"]
    boxes = read_rows(out / "boxes.csv")
    assert [row["query_id"] for row in boxes] == pasted
    assert len(boxes) >= 6
    for row in boxes:
        pixels = np.asarray(Image.open(out / "queries" / f"{row['query_id']}.jpg")).astype(int)
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = (float(row[edge]) for edge in ("x0", "y0", "x1", "y1"))
        is_lime = pixels[..., 1] - pixels[..., [0, 2]].max(axis=-1) > 60
        left, top, right, bottom = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
        assert is_lime[top + 2 : bottom - 2, left + 2 : right - 2].mean() > 0.98
        is_lime[max(0, top - 8) : bottom + 8, max(0, left - 8) : right + 8] = False  # JPEG's bleeding, and a rim
        assert not is_lime.any()


def test_hard_edits_never_hide_the_photo_altogether() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (90, 120, 3)).astype(np.uint8))
    for _ in range(60):
        edited, names = edit_copy(image, HARD, rng, lambda _: Image.new("RGB", (200, 150), (200, 0, 0)))
        assert names
        assert set(names) <= set(EDITS)
        assert edited.visible_share >= 0.04
        assert edited.visible_pixels >= 24 * 24


def test_a_photo_that_is_also_a_donor_is_refused(photos: list[File], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="R2 is both a photo and a donor"):
        write_edited_set(
            photos, photos[2:], tmp_path / "set", EditedSetPlan(copies=1, distractors=1, difficulty="mild")
        )


def test_a_set_without_donors_is_refused(photos: list[File], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 photos and 0 donors"):
        write_edited_set(photos, [], tmp_path / "set", EditedSetPlan(copies=1, distractors=1, difficulty="mild"))


def test_a_folder_with_queries_of_a_larger_set_is_refused(
    photos: list[File], donors: list[File], tmp_path: Path
) -> None:
    write_edited_set(photos, donors, tmp_path / "set", EditedSetPlan(copies=3, distractors=1, difficulty="mild"))
    with pytest.raises(InputError, match=r"holds Q00002\.jpg"):
        write_edited_set(photos, donors, tmp_path / "set", EditedSetPlan(copies=1, distractors=1, difficulty="mild"))


def test_an_unreadable_photo_is_named(donors: list[File], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    with pytest.raises(MediaError, match=r"unreadable photo .*broken\.jpg"):
        write_edited_set(
            [File("R0", broken)], donors, tmp_path / "set", EditedSetPlan(copies=1, distractors=0, difficulty="mild")
        )
    assert not (tmp_path / "set" / "ground_truth.csv").exists()


def test_impossible_settings_are_refused(photos: list[File], donors: list[File], tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(ConfigError, match="unknown difficulty 'fiendish'"):
        write_edited_set(photos, donors, out, EditedSetPlan(copies=1, distractors=0, difficulty="fiendish"))
    with pytest.raises(ConfigError, match="kinds"):
        write_edited_set(
            photos, donors, out, EditedSetPlan(copies=1, distractors=0, kinds={"music": 1}, difficulty="mild")
        )
    with pytest.raises(ConfigError, match=r"edits_per_copy \(3, 2\)"):
        write_edited_set(
            photos, donors, out, EditedSetPlan(copies=1, distractors=0, edits_per_copy=(3, 2), difficulty="mild")
        )
    with pytest.raises(ConfigError, match="0 copies and 0 distractors"):
        write_edited_set(photos, donors, out, EditedSetPlan(copies=0, distractors=0, difficulty="mild"))
