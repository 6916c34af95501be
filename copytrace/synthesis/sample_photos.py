"""Photographs inside installed packages, for a demo without downloads or the user's own files."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from copytrace.errors import InputError

# Of each package only photographs: no charts, logos or drawings, and one half of the stereo pair.
_FILES = {
    "skimage": (
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/coins.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
        "data/moon.png",
        "data/motorcycle_left.png",
        "data/page.png",
        "data/retina.jpg",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
HELD_OUT = frozenset({"grass", "gravel", "ihc", "rocket"})
"""Ids of the photos that are not references of the demo; queries that are not copies are made of them."""

_COPIES_PER_PHOTO = 5
_DISTRACTORS_PER_PHOTO = 5


@dataclass(frozen=True)
class SamplePhoto:
    """A photo inside an installed package; its id is the file's name without the suffix."""

    id: str
    path: Path


def sample_photos() -> list[SamplePhoto]:
    """Return the installed sample photos, sorted by id; those of absent packages are left out."""
    paths = [
        folder / name for package, names in _FILES.items() for folder in _package_folders(package) for name in names
    ]
    return sorted((SamplePhoto(path.stem, path) for path in paths if path.is_file()), key=lambda photo: photo.id)


def _package_folders(package: str) -> list[Path]:
    # The packages are not imported, which would take seconds.
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def write_demo_set(out: Path, seed: int = 0) -> Path:
    """Write a small image-copy task of the sample photos, and return `out`.

    `out/references` has the photos (id = file name without suffix). `out/queries` has five edited copies of each, mild
    and hard ones mixed, among edited photos that are not copies. `out/ground_truth.csv` has the reference of each copy,
    and `out/boxes.csv` the boxes of pasted ones (see `training.edited_set.write_edited_set`).

    Raises:
        InputError: the packages with photos are not installed, or `out/queries` holds files of something else.
    """
    # The edits import torch, which takes seconds, and which a caller of `sample_photos` does not need.
    from copytrace.synthesis.edited_set import EditedSetPlan, write_edited_set  # noqa: PLC0415

    photos = sample_photos()
    references = [photo for photo in photos if photo.id not in HELD_OUT]
    held_out = [photo for photo in photos if photo.id in HELD_OUT]
    if not references or not held_out:
        raise InputError(f"found {len(photos)} sample photos, too few for a demo; install scikit-image, which has most")
    folder = out / "references"
    folder.mkdir(parents=True, exist_ok=True)
    for photo in references:
        shutil.copyfile(photo.path, folder / photo.path.name)
    return write_edited_set(
        references,
        held_out,
        out,
        EditedSetPlan(_COPIES_PER_PHOTO * len(references), _DISTRACTORS_PER_PHOTO * len(held_out), seed=seed),
        workers=os.cpu_count() or 1,
    )
