from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.videos import VideoSettings
from copytrace.alignment.picture_evidence import Moment
from copytrace.alignment.picture_look import Look
from copytrace.alignment.same_pictures import (
    Thumbnails,
    align_alike_pictures,
    align_same_pictures,
    is_blank,
    is_plain_beside,
    read_thumbnails,
    shows_pictures,
)
from copytrace.alignment.segments import Segment
from copytrace.errors import MediaError
from copytrace.matching.same_picture import Agreement
from copytrace.matching.score import load_calibration
from copytrace.media.decoding_limits import DEFAULT_LIMITS
from copytrace.media.encode import write_video
from copytrace.synthesis.drawn_text import slide
from copytrace.videos import match_videos

RATE = 2
Show = Callable[..., Thumbnails]


def write_slides(
    path: Path, numbers: Sequence[int], *, frames: int = 6, start: int = 0, quantizer: int = 2, light: float = 1.0
) -> Path:
    """Write a video of slides of one template, each for some frames, from frame `start` on, and return its path.

    `light` is the share of all gray levels that is kept.
    """
    rng = np.random.default_rng(3)
    draw = slide(rng)
    slides = [np.asarray(draw(rng).convert("RGB").resize((480, 360))) * light for _ in range(6)]
    shown = [slides[number].astype(np.uint8) for number in numbers for _ in range(frames)][start:]
    path.parent.mkdir(exist_ok=True)
    write_video(shown, path, rate=RATE, quantizer=quantizer)
    return path


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """A function that writes a video of slides, and returns its thumbnails."""
    return lambda *given, **options: read_thumbnails(
        str(write_slides(tmp_path / "video.mp4", *given, **options)), DEFAULT_LIMITS
    )


def align(query: Thumbnails, reference: Thumbnails) -> Segment | None:
    return align_same_pictures(query, reference, load_calibration())


def test_a_cut_of_slides_is_found_at_its_moments_amid_others(show: Show) -> None:
    reference = show([0, 1, 2, 3])
    found = align(show([5, 1, 2, 4], start=3, quantizer=10), reference)
    assert found is not None
    assert found.box == pytest.approx((1.5, 7.5, 3.0, 9.0), abs=0.5)
    assert not found.reversed


def test_other_slides_and_a_single_one_that_both_show_prove_nothing(show: Show) -> None:
    reference = show([0, 1, 2])
    assert align(show([3, 4, 5]), reference) is None
    assert align(show([3, 1, 4]), reference) is None
    assert align(show([1, 2], frames=1), reference) is None  # too short


def test_three_slides_one_after_another_are_no_accident_and_two_may_be(show: Show) -> None:
    reference = show([0, 1, 2, 3])
    two, three = align(show([1, 2], quantizer=8), reference), align(show([1, 2, 3], quantizer=8), reference)
    assert two is not None
    assert three is not None
    assert (two.score, three.score > 0.9) == (0.0, True)


def test_darker_slides_are_found_where_they_are_more_alike_than_others(show: Show) -> None:
    reference, darker = show([0, 1, 2, 3]), show([5, 1, 2, 4], start=3, light=0.8)
    assert align(darker, reference) is None
    found = align_alike_pictures(darker, reference)
    assert found is not None
    assert found.box == pytest.approx((1.5, 7.5, 3.0, 9.0), abs=0.5)
    assert found.score == 0.0


def test_a_still_is_nowhere_more_alike(show: Show) -> None:
    assert align_alike_pictures(show([1]), show([1], frames=20)) is None


def test_a_plain_picture_is_beside_another_if_it_is_not_the_same() -> None:
    plain, other = np.full(864, 90, np.uint8), np.full(864, 120, np.uint8)
    drawn = np.where(np.arange(864) % 7, np.uint8(90), np.uint8(190))
    assert is_plain_beside(plain, other)
    assert is_plain_beside(drawn, plain)
    assert not is_plain_beside(plain, plain + np.uint8(2))
    assert not is_plain_beside(drawn, np.uint8(255) - drawn)


def test_pictures_are_blank_if_both_are_plain_and_a_plain_video_shows_none() -> None:
    plain, other = np.full(864, 16, np.uint8), np.full(864, 20, np.uint8)
    drawn = np.where(np.arange(864) % 7, np.uint8(90), np.uint8(190))
    assert is_blank(plain, other)
    assert not is_blank(plain, drawn)
    times = np.stack([np.arange(10), np.arange(1, 11)], axis=1) / 2
    assert not shows_pictures(Thumbnails(times, np.stack([plain] * 9 + [drawn])))
    assert shows_pictures(Thumbnails(times, np.stack([plain] * 7 + [drawn] * 3)))


def test_a_still_is_found_amid_other_pictures(show: Show) -> None:
    found = align(show([3, 1, 4], quantizer=10), show([1], frames=20))
    assert found is not None
    assert (found.query_start, found.query_end) == pytest.approx((3.0, 6.0), abs=0.5)
    assert found.score > 0.9
    a_title = align(show([1], quantizer=10), show([3, 1, 4]))
    assert a_title is not None
    assert a_title.score == 0.0


def test_a_black_stretch_is_no_copy_of_a_black_video() -> None:
    times = np.stack([np.arange(12), np.arange(1, 13)], axis=1) / 2
    black = Thumbnails(times, np.full((12, 864), 16, np.uint8))
    amid_others = np.where(np.arange(12)[:, None] < 6, black.pixels, np.uint8(90))
    found, whole = align(Thumbnails(times, amid_others), black), align(black, black)
    assert found is not None
    assert whole is not None
    assert (found.score, whole.score > 0.5) == (0.0, True)


def test_a_file_that_is_no_video_has_no_thumbnails(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        read_thumbnails(str(tmp_path / "a.mp4"), DEFAULT_LIMITS)


def test_a_segment_that_its_pictures_refute_is_moved_to_where_both_videos_show_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Look, "compare", lambda *_: [Moment(0.95, Agreement(0.1, 1.0, 300))])
    write_slides(tmp_path / "references" / "talk.mp4", [0, 1, 2, 3])
    write_slides(tmp_path / "queries" / "cut.mp4", [5, 1, 2, 4], start=3, quantizer=8)
    write_slides(tmp_path / "queries" / "other.mp4", [4, 5, 4])
    quick = {"panes": {"detector": "none"}, "report": {"max_matches": 0}}
    settings = VideoSettings.model_validate(quick)
    match_videos(tmp_path / "queries", tmp_path / "references", tmp_path / "out", settings)
    found = pd.read_csv(tmp_path / "out" / "segments.csv")
    (copied,) = found[found.score >= 0.5].to_dict("records")
    assert (copied["query_id"], copied["ref_id"], copied["pane"]) == ("cut", "talk", "whole")
    times = [copied[name] for name in ("query_start", "query_end", "ref_start", "ref_end")]
    assert times == pytest.approx([1.5, 7.5, 3.0, 9.0], abs=0.75)
