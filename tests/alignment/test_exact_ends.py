from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from configs.videos import VideoSettings
from copytrace.alignment import exact_ends, signature_comparison
from copytrace.alignment.align import VideoRows
from copytrace.alignment.exact_ends import find_end
from copytrace.arrays import Floats
from copytrace.errors import MediaError
from copytrace.media.encode import write_video
from copytrace.media.frames import frames_at
from copytrace.run_folder import VideoRunFolder
from copytrace.videos import match_videos
from tests.grid_models import replace_models

RATE = 24
EIGHTHS = np.stack([np.arange(16), np.arange(1, 17)], axis=1) / 8


def similarities(*levels: tuple[float, int], noise: float = 0.0) -> NDArray[np.float32]:
    values = np.concatenate([np.full(count, level) for level, count in levels])
    return np.asarray(values + np.random.default_rng(1).normal(0, noise, len(values)), np.float32)


def test_a_segment_begins_where_frames_become_similar_and_ends_where_they_cease_to_be() -> None:
    rising = similarities((0.2, 5), (0.8, 11), noise=0.03)
    assert find_end(EIGHTHS, rising, 1.0, is_start=True) == 5 / 8
    assert find_end(EIGHTHS, rising[::-1], 1.0, is_start=False) == 11 / 8


def test_frames_that_stay_similar_beyond_an_end_belong_to_the_segment() -> None:
    same = similarities((0.8, 16), noise=0.02)
    assert find_end(EIGHTHS, same, 1.0, is_start=True) == 0.0
    assert find_end(EIGHTHS, same, 1.0, is_start=False) == 2.0
    assert find_end(EIGHTHS, similarities((0.2, 16)), 1.0, is_start=True) == 1.0  # not alike at all
    fading = similarities((0.8, 8), (0.7, 4), (0.6, 4))
    assert find_end(EIGHTHS, fading, 1.0, is_start=False) == 1.0


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(similarities((0.3, 8), (0.4, 8)), id="hardly any change"),
        pytest.param(similarities((0.4, 8), (0.6, 8), noise=0.3), id="noise"),
        pytest.param(similarities((0.2, 1), (0.8, 2)), id="too few frames"),
    ],
)
def test_an_end_stays_where_nothing_tells(values: NDArray[np.float32]) -> None:
    assert find_end(EIGHTHS[: len(values)], values, 0.9, is_start=True) == 0.9


def scenes(rng: np.random.Generator, count: int) -> list[NDArray[np.uint8]]:
    """Pictures of large colored areas, each unlike the others, twice as wide as a frame."""
    return [cv2.resize(rng.integers(0, 256, (6, 16, 3), np.uint8), (256, 96)) for _ in range(count)]


def pan(pictures: Sequence[NDArray[np.uint8]], start: float, end: float) -> list[NDArray[np.uint8]]:
    """Show seconds of a video in which the camera pans over each of the pictures for three seconds."""
    times = np.arange(round(start * RATE), round(end * RATE)) / RATE
    return [pictures[int(time / 3)][:, round(time % 3 * 40) :][:, :128] for time in times]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reference of four scenes, and a query that shows seconds 2.4 to 9.3 of it, amid others, from 3.7 s on."""
    replace_models(monkeypatch)
    rng = np.random.default_rng(4)
    shown, others = scenes(rng, 4), scenes(rng, 3)
    cut = [*pan(others, 0, 3.7), *pan(shown, 2.4, 9.3), *pan(others, 5.0, 8.5)]
    for name, frames in (("references/film", pan(shown, 0, 12)), ("queries/cut", cut)):
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir()
        write_video(frames, path, rate=RATE, quantizer=4)
    return tmp_path


def ends(folder: Path, out: Path, **alignment: object) -> list[float]:
    settings = VideoSettings.model_validate(
        {"report": {"max_matches": 0}, "panes": {"detector": "none", "max_panes": 0}, "alignment": alignment}
    )
    match_videos(folder / "queries", folder / "references", out, settings)
    best = pd.read_csv(out / "segments.csv").iloc[0]
    return [float(best[name]) for name in ("query_start", "query_end", "ref_start", "ref_end")]


def test_the_moments_of_a_copy_are_found_between_the_frames_of_the_indexes(folder: Path) -> None:
    rough = ends(folder, folder / "rough", exact_ends=False, signatures=False)
    exact = ends(folder, folder / "exact", signatures=False)
    aligned = ends(folder, folder / "aligned")
    true = np.array([3.7, 10.6, 2.4, 9.3])
    assert np.abs(exact - true)[:2].max() <= 0.1
    assert np.abs(exact - true).max() <= 0.4
    assert np.abs(rough - true)[:2].max() > 0.2
    assert np.abs(aligned - true).max() <= 0.13


def test_a_loop_of_one_scene_does_not_grow_into_itself(folder: Path) -> None:
    rng = np.random.default_rng(4)
    shown = scenes(rng, 4)
    loop = [*pan(shown, 0, 3)] * 3
    write_video(loop, folder / "queries" / "cut.mp4", rate=RATE, quantizer=4)
    ends(folder, folder / "out")
    found = pd.read_csv(folder / "out" / "segments.csv").query("score >= 0.5").sort_values("query_start")
    assert len(found) == 3
    np.testing.assert_allclose(found.query_start, [0, 3, 6], atol=0.3)
    np.testing.assert_allclose(found.query_end, [3, 6, 9], atol=0.3)


def test_a_query_that_is_gone_keeps_its_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rough = ends(folder, folder / "rough", exact_ends=False, signatures=False)
    monkeypatch.setattr(exact_ends, "frames_at", _missing)
    monkeypatch.setattr(signature_comparison, "read_signature", _missing)
    assert ends(folder, folder / "gone") == rough


def test_an_end_at_which_a_query_shows_nothing_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rough = ends(folder, folder / "rough", exact_ends=False)
    monkeypatch.setattr(exact_ends, "frames_at", _break_off)
    found = ends(folder, folder / "less")
    assert abs(found[0] - 3.7) <= 0.1
    assert found[1] == rough[1]


def test_ends_are_found_anew_only_if_they_are_asked_for_or_not(folder: Path) -> None:
    out = folder / "out"
    kept = ends(folder, out)
    run = VideoRunFolder(out)
    records = [path.with_suffix(".json") for path in (run.exact_segments(0), run.signature_segments(0))]
    before = [record.read_text() for record in records]
    assert ends(folder, out) == kept
    assert [record.read_text() for record in records] == before
    ends(folder, out, signatures=False)
    assert [record.read_text() == old for record, old in zip(records, before, strict=True)] == [True, False]
    ends(folder, out, exact_ends=False)
    assert records[0].read_text() != before[0]


def _break_off(path: str, seconds: Sequence[float], side: int, **options: Any) -> list[NDArray[np.uint8] | None]:
    frames = frames_at(path, seconds, side, **options)
    return [frame if second < 8.0 else None for second, frame in zip(seconds, frames, strict=True)]


def _missing(*_: object, **__: object) -> list[None]:
    raise MediaError("is gone")


def test_frames_like_nothing_in_the_reference_are_as_unlike_as_its_other_frames() -> None:
    directions = np.eye(4, dtype=np.float32)
    times = np.array([[0, 1], [5, 6], [10, 11]], np.float64)
    reference = VideoRows(["whole"] * 3, times, directions[:3], np.zeros(3, np.float32))
    opposite, _ = exact_ends._likeness(-directions[:1], reference, np.array([0.5]))
    assert opposite == 0.0
    equal, is_telling = exact_ends._likeness(directions[:1], reference, np.array([0.5]))
    assert equal == pytest.approx(1.0)
    assert is_telling
    absent, _ = exact_ends._likeness(directions[:1], reference, np.array([5.5]))
    assert absent == 0.0


def test_pages_of_one_layout_do_not_tell_an_end_and_other_footage_does() -> None:
    pages = np.float32([[0.95, 0.312, 0.0, 0.0], [0.95, 0.0, 0.312, 0.0], [0.95, 0.0, 0.0, 0.312]])
    pages /= np.linalg.norm(pages, axis=1, keepdims=True)
    seconds = np.array([[0, 1], [5, 6], [10, 11]], np.float64)
    reference = VideoRows(["whole"] * 3, seconds, pages, np.zeros(3, np.float32))
    times = np.stack([np.arange(16), np.arange(1, 17)], axis=1) / 8

    def find(first: Floats) -> float:
        vectors = np.concatenate([np.tile(first, (6, 1)), np.tile(pages[0], (10, 1))])
        likeness, is_telling = exact_ends._likeness(vectors, reference, np.full(16, 0.5))
        return find_end(times, likeness, 1.0, is_start=True, is_telling=is_telling)

    another_page, other_footage = pages[1], np.float32([0.0, 0.6, -0.8, 0.0])
    assert find(another_page) == 1.0
    assert find(other_footage) == 0.75
