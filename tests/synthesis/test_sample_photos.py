from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from copytrace.synthesis.sample_photos import HELD_OUT, sample_photos, write_demo_set


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_set(tmp_path_factory.mktemp("demo"), seed=1)


def truth(demo: Path) -> list[dict[str, str]]:
    with (demo / "ground_truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_installed_packages_bring_at_least_fifteen_photos_with_distinct_ids() -> None:
    photos = sample_photos()
    assert len({photo.id for photo in photos}) == len(photos) >= 15
    assert {"astronaut", "chelsea", "china", "grace_hopper"} <= {photo.id for photo in photos}


def test_sample_photos_are_photographs() -> None:
    for photo in sample_photos():
        grey = Image.open(photo.path).convert("L")
        assert min(grey.size) >= 150, photo.id
        assert sum(count > 0 for count in grey.histogram()) > 100, photo.id  # drawings have few tones


def test_the_demo_has_sixty_copies_at_least_and_every_reference_is_copied_five_times(demo: Path) -> None:
    copies = Counter(row["reference_id"] for row in truth(demo) if row["reference_id"])
    assert sum(copies.values()) >= 60
    assert set(copies) == {path.stem for path in (demo / "references").iterdir()}
    assert set(copies.values()) == {5}


def test_the_demo_has_distractors_of_photos_that_are_no_references(demo: Path) -> None:
    assert sum(not row["reference_id"] for row in truth(demo)) == 5 * len(HELD_OUT)
    assert not HELD_OUT & {path.stem for path in (demo / "references").iterdir()}


def test_every_query_of_the_demo_can_be_read(demo: Path) -> None:
    for row in truth(demo):
        with Image.open(demo / "queries" / f"{row['query_id']}.jpg") as image:
            image.load()
            assert min(image.size) >= 32


def test_the_demo_references_are_the_packages_own_files(demo: Path) -> None:
    for photo in sample_photos():
        if photo.id not in HELD_OUT:
            assert (demo / "references" / photo.path.name).read_bytes() == photo.path.read_bytes()
