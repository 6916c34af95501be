"""What benchmarks measure on: sample media that come with installed packages, or sets of one's own.

A set is a folder with `queries`, `references` and `ground_truth.csv`, and `noise` if it has videos that no query was
copied from. The columns of the ground truth tell images (`reference_id`) from videos (`ref_id`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from copytrace.errors import InputError
from copytrace.synthesis.sample_photos import write_demo_set
from copytrace.synthesis.sample_videos import write_demo_videos

Medium = Literal["images", "videos"]


@dataclass(frozen=True)
class EvaluationSet:
    """Queries, references and the truth about them; `noise` are videos that no query was copied from."""

    name: str
    medium: Medium
    queries: Path
    references: Path
    truth: Path
    noise: Path | None = None


def read_set(folder: Path) -> EvaluationSet:
    """Return the set in `folder`. Raises `InputError` if it is none."""
    paths = [folder / name for name in ("queries", "references", "ground_truth.csv")]
    if missing := [path for path in paths if not path.exists()]:
        raise InputError(f"{folder} is no evaluation set: {missing[0]} is missing")
    header = paths[2].read_text("utf-8").partition("\n")[0].split(",")
    medium: Medium = "videos" if "ref_id" in header else "images"
    noise = folder / "noise"
    return EvaluationSet(folder.name, medium, *paths, noise if noise.exists() else None)


def choose_set(medium: Medium, given: Sequence[Path], work: Path) -> EvaluationSet:
    """Return the first of the `given` sets that is of this medium or, without one, sample media."""
    for each in map(read_set, given):
        if each.medium == medium:
            return each
    folder = work / f"samples-{medium}"
    written = read_set(write_demo_set(folder) if medium == "images" else write_demo_videos(folder))
    return replace(written, name=f"sample {medium}")
