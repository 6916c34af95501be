"""A short cut is known by its movement: each picture is the same at its moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.alignment.same_footage import find_same_footage
from copytrace.alignment.segments import Segment
from copytrace.media.decoding_limits import DEFAULT_LIMITS

Pixels = NDArray[np.uint8]
RATE = 8
CUT = slice(16, 36)  # pictures: seconds 2 to 4.5
ROUGHLY = Segment(0.0, 2.5, 1.6, 5.6, 0.01)  # as an aligner finds it: too fast, and off by 0.35 s in the middle


@pytest.fixture
def compare(tmp_path: Path, write_video: Callable[..., Path]) -> Callable[..., Segment | None]:
    def look(query: list[Pixels], reference: list[Pixels], **options: Any) -> Segment | None:
        paths = [
            str(write_video(tmp_path / f"{name}.mp4", pictures, rate=RATE))
            for name, pictures in (("query", query), ("reference", reference))
        ]
        return find_same_footage(*paths, Segment(**{**_fields(ROUGHLY), **options}), DEFAULT_LIMITS)

    return look


def _fields(segment: Segment) -> dict[str, Any]:
    return {name: getattr(segment, name) for name in segment.__slots__}


@pytest.mark.parametrize("size", [(128, 96), (96, 72)])
def test_a_cut_that_was_reduced_and_encoded_again_is_found_to_the_picture(
    compare: Callable[..., Segment | None], tour: Callable[..., list[Pixels]], size: tuple[int, int]
) -> None:
    cut = [np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA), np.uint8) for each in tour("coffee")[CUT]]
    found = compare(cut, tour("coffee"))
    assert found is not None
    times = found.query_start, found.query_end, found.reference_start, found.reference_end
    assert times == pytest.approx((0.0, 2.5, 2.0, 4.5), abs=1e-6)


def test_other_footage_of_the_same_place_is_not_the_same(
    compare: Callable[..., Segment | None], tour: Callable[..., list[Pixels]]
) -> None:
    shown = tour("coffee")
    assert compare(shown[CUT][::-1], shown) is None
    assert compare(shown[CUT], tour("coffee")[::-1]) is None
    assert compare([shown[16 + 2 * number] for number in range(16)], shown) is None, "played twice as fast"
    assert compare([each[:, ::-1] for each in shown[CUT]], shown) is None
    assert compare(shown[CUT], tour("chelsea")) is None


def test_what_does_not_move_is_no_proof(
    compare: Callable[..., Segment | None], tour: Callable[..., list[Pixels]]
) -> None:
    shown = tour("coffee")
    assert compare([shown[20]] * 20, shown) is None
    assert compare([shown[20]] * 20, [shown[20]] * 48) is None
    black = [np.full_like(shown[0], number % 3) for number in range(48)]
    assert compare(black[CUT], black) is None


def test_moments_that_are_far_off_or_reversed_are_not_looked_at(
    compare: Callable[..., Segment | None], tour: Callable[..., list[Pixels]]
) -> None:
    shown = tour("coffee")
    assert compare(shown[CUT], shown, reversed=True) is None
    assert compare(shown[CUT], shown, reference_start=20.0, reference_end=22.5) is None
