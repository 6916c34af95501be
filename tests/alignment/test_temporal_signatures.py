from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from copytrace.alignment.segment_tables import room_between
from copytrace.alignment.segments import Segment
from copytrace.alignment.signature_lines import (
    BEYOND,
    LONGEST,
    SHIFTS,
    align_signatures,
    clip_segment,
    supported_score,
    windows_of,
)
from copytrace.alignment.temporal_signatures import TemporalSignature
from copytrace.media.frames import Frame

LENGTH = 30.0
Pictures = NDArray[np.uint8]


def enlarge(pixels: Pictures, width: int, height: int) -> Pictures:
    return np.asarray(cv2.resize(pixels, (width, height)), np.uint8)


class Film:
    """A film of `LENGTH` seconds: scenes of 1.5 to 5 seconds over which a camera pans, slower and faster."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.cuts = np.cumsum(rng.uniform(1.5, 5, 20))
        self.scenes = [enlarge(rng.integers(0, 256, (6, 24, 3), np.uint8), 768, 96) for _ in self.cuts]
        self.seconds = np.arange(0, LENGTH, 1 / 24)
        self.places = np.cumsum(np.abs(rng.normal(0, 1, len(self.seconds) // 12 + 1)).repeat(12)[: len(self.seconds)])

    def at(self, second: float) -> Pictures:
        place = np.interp(second, self.seconds, self.places) * 2 % 600
        shown: Pictures = self.scenes[int(np.searchsorted(self.cuts, second))][:, int(place) : int(place) + 128]
        return shown


def signature(film: Film, first: float, last: float, length: float, *, edited: bool = False) -> TemporalSignature:
    """Return the signature of a video of `length` seconds that shows the film from one second to another."""
    frames = []
    for tick in range(int(length * 8)):
        pixels = film.at(first + (last - first) * (tick + 0.5) / 8 / length)
        if edited:  # mirrored, cropped and darker
            pixels = (pixels[10:80, 100:20:-1] * 0.7).astype(np.uint8)
        frames.append(Frame(tick / 8, (tick + 1) / 8, pixels))
    return TemporalSignature.of(frames, length)


@pytest.mark.parametrize(
    ("first", "last", "length"),
    [
        pytest.param(7.43, 17.43, 10.0, id="pace of the original"),
        pytest.param(7.43, 15.43, 10.0, id="slower"),
        pytest.param(19.3, 9.3, 10.0, id="backwards"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_shown_seconds_of_a_reference_are_found_though_the_copy_is_edited(
    seed: int, first: float, last: float, length: float
) -> None:
    film = Film(seed)
    turned = first > last
    rough = Segment(0, length, min(first, last) + 0.7, max(first, last) - 0.6, 0.5, turned)
    found = align_signatures(rough, signature(film, first, last, length, edited=True), signature(film, 0, 30, 30))
    assert found.reference_at(0) == pytest.approx(first, abs=0.15)
    assert found.reference_at(length) == pytest.approx(last, abs=0.15)
    assert (found.query_start, found.query_end, found.reversed) == (0, length, turned)
    assert found.score > 0.5


def cut_in(film: Film, *others: Film) -> TemporalSignature:
    """Return the signature of a video that shows another film, from 6 to 18 s a film, mirrored, and then a third."""
    frames = []
    for tick in range(24 * 8):
        second = (tick + 0.5) / 8
        pixels = film.at(second + 2) if 6 <= second < 18 else others[second > 6].at(second)
        frames.append(Frame(tick / 8, (tick + 1) / 8, (pixels[:, ::-1] * 0.8).astype(np.uint8)))
    return TemporalSignature.of(frames, 24.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("start", "end"), [(6, 15.5), (9.2, 18), (8.5, 16.1), (6, 18)])
def test_a_segment_grows_as_far_as_the_copy_goes_and_no_further(seed: int, start: float, end: float) -> None:
    film = Film(seed)
    query = cut_in(film, Film(seed + 10), Film(seed + 20))
    found = align_signatures(Segment(start, end, start + 2, end + 2, 0.5), query, signature(film, 0, 30, 30))
    assert found.query_start == pytest.approx(6, abs=0.3)
    assert found.query_end == pytest.approx(18, abs=0.3)
    assert found.reference_at(10) == pytest.approx(12, abs=0.15)


def test_a_segment_does_not_grow_into_others_of_both_videos() -> None:
    film = Film(1)
    query = cut_in(film, Film(11), Film(21))
    between, others = Segment(9.2, 14, 11.2, 16, 0.5), [Segment(6, 8.5, 8, 10.5, 0.5), Segment(16, 18, 18, 20, 0.5)]
    assert room_between([*others, between], between) == (8.5, 16)
    found = align_signatures(between, query, signature(film, 0, 30, 30), room_between(others, between))
    assert found.query_start == pytest.approx(8.5, abs=0.13)
    assert found.query_end == pytest.approx(16, abs=0.13)


def test_a_copy_of_the_whole_reference_grows_to_the_ends_of_the_query() -> None:
    film = Film(2)
    found = align_signatures(Segment(3, 21, 5, 23, 0.5), signature(film, 2, 26, 24), signature(film, 0, 30, 30))
    assert (found.query_start, found.query_end) == (0, 24)


def test_signatures_of_another_film_lower_the_score_at_most_a_little() -> None:
    rough = Segment(0, 10, 7, 17, 0.5)
    pairs = [(signature(Film(k), 7, 17, 10), signature(Film(50 + k), 0, 30, 30)) for k in range(8)]
    scores = [align_signatures(rough, *pair).score for pair in pairs]
    assert np.median(scores) < 0.5
    assert min(scores) >= 0.25
    assert max(scores) < 0.7


def test_a_still_tells_nothing_of_its_moments() -> None:
    film = Film(1)
    still = TemporalSignature.of([Frame(k / 8, (k + 1) / 8, film.at(2.0)) for k in range(80)], 10.0)
    rough = Segment(0, 8, 1.3, 9.3, 0.5)
    assert align_signatures(rough, still, still) == rough


def test_cuts_between_stills_tell_the_moments_and_prove_nothing() -> None:
    pages = [enlarge(np.random.default_rng(page).integers(0, 256, (8, 8, 3), np.uint8), 128, 96) for page in range(9)]
    frames = [Frame(k / 8, (k + 1) / 8, pages[int(k / 8 / 3.2)]) for k in range(192)]
    talk = TemporalSignature.of(frames, 24.0)
    found = align_signatures(
        Segment(0, 12, 6.9, 18.9, 0.5),
        TemporalSignature.of([Frame(k / 8, (k + 1) / 8, frames[k + 48].pixels) for k in range(96)], 12.0),
        talk,
    )
    assert found.reference_at(0) == pytest.approx(6.0, abs=0.13)
    assert found.score == 0.5


def test_text_that_rolls_steadily_proves_nothing() -> None:
    def roll(seed: int, start: float, length: float) -> TemporalSignature:
        page = enlarge(np.random.default_rng(seed).integers(0, 256, (200, 8, 3), np.uint8), 128, 3200)
        places = [int((start + (k + 0.5) / 8) * 60) for k in range(int(length * 8))]
        frames = [Frame(k / 8, (k + 1) / 8, page[place : place + 96]) for k, place in enumerate(places)]
        return TemporalSignature.of(frames, length)

    assert align_signatures(Segment(0, 10, 7, 17, 0.05), roll(1, 7, 10), roll(1, 0, 30)).score == 0.05
    assert align_signatures(Segment(0, 10, 7, 17, 0.05), roll(1, 7, 10), roll(2, 0, 30)).score == 0.05


def test_a_segment_too_short_to_tell_stays_as_it_is() -> None:
    film = Film(1)
    rough = Segment(0, 1, 7, 8, 0.5)
    assert align_signatures(rough, signature(film, 7.5, 8.5, 1), signature(film, 0, 30, 30)) == rough


def test_a_row_has_motion_brightness_contrast_and_colors() -> None:
    gray = [np.full((64, 64, 3), level, np.uint8) for level in (10, 10, 30, 30, 30)]
    frames = [Frame(k / 8, (k + 1) / 8, pixels) for k, pixels in enumerate(gray)]
    found = TemporalSignature.of(frames, 2.0)
    np.testing.assert_allclose(found.times, [1 / 8, 2 / 8, 3 / 8, 4 / 8])
    cut = np.log(21)
    np.testing.assert_allclose(found.values[:, 0], [cut / 4, cut / 2, cut / 4, 0])
    np.testing.assert_allclose(found.values[:, 1], [10, 20, 30, 30])
    np.testing.assert_allclose(found.values[:, 2:], np.tile([0, 128, 128], (4, 1)))


def test_a_box_is_measured_alone_and_frames_without_it_leave_a_gap() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = 200
    frames = [Frame(k / 8, (k + 1) / 8, pixels) for k in (0, 1, 2, 6, 7, 8)]
    found = TemporalSignature.of(frames, 2.0, np.array([0, 0, 0.5, 0.5], np.float32))
    np.testing.assert_allclose(found.values[:, 1], 200)
    np.testing.assert_allclose(found.times, [1 / 8, 2 / 8, 7 / 8, 8 / 8])
    seconds = np.array([[0.0, 1 / 8, 3 / 16, 0.5, 15 / 16, 1.1]])
    np.testing.assert_array_equal(np.isnan(found.at(seconds)[0, :, 0]), [True, False, False, True, False, True])


@pytest.mark.parametrize(
    ("segment", "clipped"),
    [
        pytest.param(Segment(4, 14, -1.5, 8.5, 1), (5.5, 14, 0, 8.5), id="before its start"),
        pytest.param(Segment(0, 10, 12, 22, 1), (0, 8, 12, 20), id="after its end"),
        pytest.param(Segment(0, 10, -2, 8, 1, reversed=True), (0, 8, 0, 8), id="backwards, before its start"),
        pytest.param(Segment(0, 10, 15, 25, 1, reversed=True), (5, 10, 15, 20), id="backwards, after its end"),
        pytest.param(Segment(0, 10, -0.1, 10, 1), (0, 10, 0, 10), id="by less than lines are exact"),
        pytest.param(Segment(0, 10, 5, 15, 1), (0, 10, 5, 15), id="inside"),
    ],
)
def test_what_a_reference_does_not_have_is_not_copied(
    segment: Segment, clipped: tuple[float, float, float, float]
) -> None:
    assert clip_segment(segment, 20.0).box == pytest.approx(clipped)


def test_of_long_segments_only_both_ends_are_read() -> None:
    margin = BEYOND + float(SHIFTS.max())
    assert windows_of(Segment(5, 35, 10, 40, 1)) == ([(5 - BEYOND, 35 + BEYOND)], [(10 - margin, 40 + margin)])
    shown, original = windows_of(Segment(0, 200, 1, 201, 1))
    assert shown == [(0, LONGEST), (200 - LONGEST, 200 + BEYOND)]
    assert original == [(0, 1 + LONGEST + SHIFTS.max()), (201 - LONGEST - SHIFTS.max(), 201 + margin)]
    _, turned = windows_of(Segment(0, 200, 0, 200, 1, reversed=True))
    assert turned == [(0, LONGEST + SHIFTS.max()), (200 - LONGEST - SHIFTS.max(), 200 + margin)]
    assert len(windows_of(Segment(0, 50, 0, 25, 1))[1]) == 1  # those of the reference overlap


@given(st.floats(0, 1), st.floats(0, 200), st.floats(0, 200))
def test_more_odds_never_lower_a_score(score: float, odds: float, more: float) -> None:
    low, high = sorted((odds, more))
    assert 0 <= supported_score(score, low) <= supported_score(score, high) <= 1
