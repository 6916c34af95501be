"""A folder with every oddity at once: the good files are matched, and each odd one is accounted for in one line."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from configs.images import ImageSettings
from copytrace.images import match_images
from tests.few_points import FEW_POINTS

Pixels = NDArray[np.uint8]
QUICK: dict[str, Any] = {
    "descriptor": {"input_size": 128},
    "local": FEW_POINTS,
    "overlay": {"detector": "none"},
    "media": {"exclude": ["thumbnails"]},
    "report": {"max_matches": 0},
}


def rows(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["error"] for row in csv.DictReader(file)}


def copies(out: Path) -> set[tuple[str, str]]:
    with (out / "matches.csv").open(encoding="utf-8", newline="") as file:
        return {(row["query_id"], row["reference_id"]) for row in csv.DictReader(file) if float(row["score"]) >= 0.5}


@pytest.fixture
def odd_folder(tmp_path: Path, photos: dict[str, Pixels]) -> Path:
    root = tmp_path / "photos"
    for name in ("sub/deep", "thumbnails", ".cache"):
        (root / name).mkdir(parents=True)
    Image.fromarray(photos["coffee"]).save(root / "coffee.JPG", quality=90)
    Image.fromarray(photos["chelsea"]).save(root / "sub" / "deep" / "cat without suffix", "WEBP", quality=90)
    Image.fromarray(photos["rocket"]).save(root / "thumbnails" / "rocket.png")
    Image.fromarray(photos["rocket"]).save(root / ".cache" / "rocket.png")
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12" * 20  # of which Pillow warns
    Image.fromarray(photos["astronaut"]).save(root / "astronaut.jpg", quality=90, exif=exif)
    whole = (root / "coffee.JPG").read_bytes()
    (root / "cut.jpg").write_bytes(whole[:-300])
    (root / "header.jpg").write_bytes(whole[:300])
    (root / "coffee.JPG.json").write_text("{}")
    (root / "Thumbs.db").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504))
    (root / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(300))
    (root / "again.jpg").symlink_to("coffee.JPG")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "sub" / "round").symlink_to(root)
    (root / os.fsdecode(b"caf\xe9.jpg")).write_bytes(whole)
    return root


def test_every_oddity_at_once(
    odd_folder: Path,
    tmp_path: Path,
    photos: dict[str, Pixels],
    write_photos: Callable[[Path, Mapping[str, Pixels]], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    references = write_photos(
        tmp_path / "references", {name: photos[name] for name in ("coffee", "chelsea", "astronaut")}
    )
    out, settings = odd_folder / "out", ImageSettings.model_validate(QUICK)
    with warnings.catch_warnings(record=True) as warned:
        for _ in range(2):  # the second run finds the results of the first in its folder
            run = match_images(odd_folder, references, out, settings)
            assert rows(out / "failures.csv") == {
                "caf\\xe9.jpg": "the name is not UTF-8; rename the file",
                "cut": "truncated JPEG; used up to there",
                "gone.jpg": "a link to nowhere.jpg, which does not exist",
                "header": "truncated JPEG",
            }
            assert set(rows(out / "passed_over.csv")) == {
                *("Thumbs", "again.jpg", "coffee.JPG", "film", "sub/round"),
            }
            assert copies(out) == {
                ("astronaut", "astronaut"),
                ("coffee", "coffee"),
                ("cut", "coffee"),
                ("sub/deep/cat without suffix", "chelsea"),
            }
            counts = run["counts"]
            assert (counts["queries"], counts["failures"], counts["passed_over"]) == (4, 4, 3)
    assert [str(each.message) for each in warned if "PIL" in each.filename] == []
    assert capfd.readouterr().err == ""
