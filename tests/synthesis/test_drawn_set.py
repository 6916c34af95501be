from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from copytrace.errors import ConfigError, InputError
from copytrace.media.files import list_media
from copytrace.synthesis.drawn_set import PICTURE_KINDS, DrawnSetPlan, write_drawn_set

PLAN = DrawnSetPlan(templates=1, references=1, others=1, copies=1, kinds=("page", "logo", "plain"), seed=7)


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("donors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(folder / "noise.png")
    return str(folder)


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_two_pictures_of_a_template_differ(kind: str) -> None:
    rng = np.random.default_rng(3)
    draw = PICTURE_KINDS[kind](rng)
    first, second = (np.asarray(draw(rng).convert("RGBA")) for _ in range(2))
    assert first.shape == second.shape
    apart = np.abs(first.astype(int) - second).max()
    assert 0 < apart <= 24 if kind == "shade" else apart > 60


def test_copies_that_are_only_encoded_again_have_no_other_edits(tmp_path: Path, donors: str) -> None:
    plan = replace(PLAN, templates=3, copies=3, kinds=("icon",), encoded_again=True)
    out = write_drawn_set(list_media(donors, "image"), tmp_path / "set", plan)
    with (out / "ground_truth.csv").open(encoding="utf-8") as file:
        edits = {row["edits"] for row in csv.DictReader(file) if row["reference_id"]}
    assert edits == {"jpeg", "jpeg downscale"}


def test_photographed_pictures_have_no_even_ground_and_plain_ones_stay_plain(tmp_path: Path, donors: str) -> None:
    photos = list_media(donors, "image")
    for name, photographed in (("even", False), ("uneven", True)):
        write_drawn_set(photos, tmp_path / name, replace(PLAN, photographed=photographed))
    even, uneven = (
        np.asarray(Image.open(tmp_path / name / "references/page-00-00.png")) for name in ("even", "uneven")
    )
    assert even.shape == uneven.shape
    assert shades_of_paper(even) == 1
    assert shades_of_paper(uneven) > 20
    plain = [(tmp_path / name / "references/plain-00-00.png").read_bytes() for name in ("even", "uneven")]
    assert plain[0] == plain[1]


def shades_of_paper(pixels: np.ndarray) -> int:
    """Return of how many gray levels the middle half of the pixels of a page is, in order of brightness."""
    gray = np.sort(pixels.mean(axis=2).round().ravel())
    return len(np.unique(gray[len(gray) // 4 : 3 * len(gray) // 4]))


def test_the_ground_truth_names_the_copies_and_their_kind(tmp_path: Path, donors: str) -> None:
    out = write_drawn_set(list_media(donors, "image"), tmp_path / "set", PLAN)
    with (out / "ground_truth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    references = {path.stem for path in (out / "references").iterdir()}
    queries = {path.stem for path in (out / "queries").iterdir()}
    assert {row["query_id"] for row in rows} == queries
    assert {row["reference_id"] for row in rows} == references | {""}
    assert sorted((row["kind"], bool(row["reference_id"])) for row in rows) == sorted(
        (kind, is_copy) for kind in PLAN.kinds for is_copy in (False, True)
    )


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(tmp_path: Path, donors: str) -> None:
    photos = list_media(donors, "image")
    first, second = (
        write_drawn_set(photos, tmp_path / name, PLAN, workers=threads) for name, threads in (("a", 1), ("b", 3))
    )
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_an_impossible_plan_or_a_foreign_folder_is_refused(tmp_path: Path, donors: str) -> None:
    photos = list_media(donors, "image")
    with pytest.raises(ConfigError, match="the kinds are page, slide"):
        write_drawn_set(photos, tmp_path, DrawnSetPlan(kinds=("painting",)))
    with pytest.raises(InputError, match="give donors"):
        write_drawn_set([], tmp_path, PLAN)
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "mine.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"mine\.png"):
        write_drawn_set(photos, tmp_path, PLAN)
