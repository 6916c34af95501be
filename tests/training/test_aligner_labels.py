from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from copytrace.alignment.segments import Segment
from copytrace.training.aligner_labels import label_map


def seconds(count: int, frame: float = 1.0) -> NDArray[np.float64]:
    starts = np.arange(count) * frame
    return np.stack([starts, starts + frame], axis=1)


BESIDE = (1 - 1 / np.sqrt(2)) ** 0.5  # the label one column off a line of slope 1


def test_a_line_is_1_on_its_cells_and_fades_beside_them() -> None:
    label = label_map([Segment(1, 4, 2, 5, 1.0)], seconds(5), seconds(6))
    expected = np.zeros((5, 6))
    for row in range(1, 4):
        expected[row, row + 1] = 1.0
    expected[1, 3] = expected[2, 2] = expected[2, 4] = expected[3, 3] = BESIDE
    assert label == pytest.approx(expected, abs=1e-6)
    assert label.dtype == np.float32


def test_a_copy_that_plays_backwards_is_a_rising_line() -> None:
    label = label_map([Segment(0, 3, 0, 3, 1.0, reversed=True)], seconds(3), seconds(3))
    assert label[[0, 1, 2], [2, 1, 0]] == pytest.approx(1.0)
    assert label[0, 0] == label[2, 2] == 0.0


def test_real_time_counts_and_not_the_number_of_a_frame() -> None:
    label = label_map([Segment(1, 3, 1, 3, 1.0)], seconds(8, frame=0.5), seconds(4))
    assert np.flatnonzero(label.any(axis=1)).tolist() == [2, 3, 4, 5], "half-second rows of the first axis"
    assert np.flatnonzero(label.any(axis=0)).tolist() == [1, 2]
    assert label[2, 1] == label[3, 1] == pytest.approx((1 - 0.25 / np.hypot(1, 0.5)) ** 0.5)


def test_of_segments_that_overlap_the_larger_label_counts() -> None:
    first, second = Segment(0, 4, 0, 4, 1.0), Segment(0, 4, 1, 5, 1.0)
    both = label_map([first, second], seconds(5), seconds(5))
    alone = [label_map([segment], seconds(5), seconds(5)) for segment in (first, second)]
    assert (both == np.maximum(*alone)).all()
    assert (label_map([second, first], seconds(5), seconds(5)) == both).all()


def test_frames_count_from_half_inside_on() -> None:
    label = label_map([Segment(0.5, 2.4, 0.5, 2.4, 1.0)], seconds(4), seconds(4))
    assert np.flatnonzero(label.any(axis=1)).tolist() == [0, 1]


def test_a_segment_of_less_than_half_a_frame_has_the_one_it_lies_in() -> None:
    label = label_map([Segment(2.1, 2.4, 1.2, 1.5, 1.0)], seconds(4), seconds(4))
    assert np.argwhere(label > 0).tolist() == [[2, 1]]


def test_what_lies_outside_the_matrix_leaves_no_label() -> None:
    assert not label_map([Segment(10, 20, 0, 5, 1.0)], seconds(5), seconds(5)).any()
    assert label_map([Segment(0, 2, 0, 2, 1.0)], seconds(0), seconds(3)).shape == (0, 3)
