from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from copytrace.errors import ConfigError, InputError
from copytrace.media.frames import open_video
from copytrace.media.rgb import Pixels
from copytrace.metrics.video_evaluation import read_kinds, read_true_segments
from copytrace.synthesis import drawn_videos
from copytrace.synthesis.drawn_set import PICTURE_KINDS
from copytrace.synthesis.drawn_videos import VIDEO_KINDS, DrawnVideosPlan, write_drawn_videos
from copytrace.synthesis.footage import RATE

PLAN = DrawnVideosPlan(templates=1, references=2, others=1, copies=2, kinds=("titles", "rolling-page"), seed=7)
COUNT = 32  # pictures of a video, instead of 120


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small = {
            "_LONG_SIDE": 128,
            "_PICTURES": COUNT,
            "_COPIED": (1.0, 2.0),
            "_BEFORE": (0.5, 1.0),
            "_ENCODED_AGAIN": 1.0,
        }
        for name, value in small.items():
            patch.setattr(drawn_videos, name, value)
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_videos(tmp_path_factory.mktemp("drawn"), PLAN)


def pictures_of(path: Path) -> list[Pixels]:
    frames = open_video(str(path)).frames(per_second=RATE, short_side=48, threads=1)
    return [cv2.resize(frame.pixels, (64, 64)) for frame in frames]


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_a_video_lasts_as_long_as_others_and_two_of_a_template_differ(kind: str) -> None:
    pictures, show = VIDEO_KINDS[kind]
    rng = np.random.default_rng(3)
    draw = PICTURE_KINDS[pictures](rng)
    first, second = (list(show(draw, rng)) for _ in range(2))
    assert len(first) == len(second) == COUNT
    assert len({picture.shape for picture in first + second}) == 1
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(first, second, strict=True)) > 60


def test_a_copy_shows_the_seconds_that_the_ground_truth_names(drawn: Path) -> None:
    truth, _ = read_true_segments(drawn / "ground_truth.csv")
    assert len(truth.queries) == 4
    for query, reference, times in zip(truth.queries, truth.references, np.asarray(truth.times), strict=True):
        copy = pictures_of(drawn / "queries" / f"{query}.mp4")
        original = pictures_of(drawn / "references" / f"{reference}.mp4")
        start, end, first = (round(time * RATE) for time in times[:3])
        shown = [np.abs(copy[start + n].astype(int) - original[first + n]).mean() for n in range(end - start)]
        later = [
            np.abs(copy[start + n].astype(int) - original[(first + COUNT // 2 + n) % COUNT]).mean()
            for n in range(end - start)
        ]
        assert np.mean(shown) < 0.5 * np.mean(later)


def test_each_query_is_of_a_kind_and_others_copy_nothing(drawn: Path) -> None:
    kinds = read_kinds(drawn / "edits.csv")
    assert set(kinds) == {path.stem for path in (drawn / "queries").iterdir()}
    assert all(query.startswith(words.split()[0]) for query, words in kinds.items())
    truth, _ = read_true_segments(drawn / "ground_truth.csv")
    assert sorted(set(kinds) - set(truth.queries)) == ["rolling-page-00-other00", "titles-00-other00"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(drawn: Path, tmp_path: Path) -> None:
    again = write_drawn_videos(tmp_path, PLAN, workers=3)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((drawn / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_an_impossible_plan_or_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the kinds are slides, "):
        write_drawn_videos(tmp_path, DrawnVideosPlan(kinds=("film",)))
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "mine.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"mine\.mp4"):
        write_drawn_videos(tmp_path, PLAN)
