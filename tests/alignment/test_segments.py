from dataclasses import replace

import numpy as np
import pytest

from copytrace.alignment.segments import Segment, box_overlaps, merge_pieces, suppress_overlapping

LONG = Segment(0.0, 10.0, 20.0, 30.0, 0.8)


def test_overlap_of_two_boxes_is_their_shared_area_over_their_joint_area() -> None:
    first = np.array([[0.0, 4.0, 0.0, 4.0]])
    second = np.array([[2.0, 6.0, 0.0, 4.0], [0.0, 4.0, 0.0, 4.0], [4.0, 8.0, 0.0, 4.0]])
    assert box_overlaps(first, second).tolist() == [[8 / 24, 1.0, 0.0]]


def test_suppression_keeps_the_better_of_two_that_overlap_and_everything_apart() -> None:
    worse = replace(LONG, query_start=1.0, score=0.5)
    apart = replace(LONG, reference_start=50.0, reference_end=60.0, score=0.3)
    assert suppress_overlapping([apart, worse, LONG], 0.5) == [LONG, apart]


def test_suppression_of_nothing_is_nothing() -> None:
    assert suppress_overlapping([], 0.5) == []


def test_two_pieces_of_one_line_become_one_segment_whose_odds_add_up() -> None:
    piece = Segment(10.0, 15.0, 30.0, 35.0, 0.5)
    (whole,) = merge_pieces([piece, LONG], 1.0)
    assert whole.box == (0.0, 15.0, 20.0, 35.0)
    assert whole.score == pytest.approx(5 / 6)  # odds 4 + 1


def test_pieces_that_share_seconds_do_not_count_them_twice() -> None:
    (whole,) = merge_pieces([LONG, LONG], 1.0)
    assert whole == LONG


def test_pieces_of_parallel_lines_stay_apart() -> None:
    shifted = replace(LONG, reference_start=25.0, reference_end=35.0)
    assert len(merge_pieces([LONG, shifted], 1.0)) == 2


def test_a_piece_played_backwards_does_not_continue_one_played_forwards() -> None:
    assert len(merge_pieces([LONG, replace(LONG, reversed=True)], 1.0)) == 2


def test_reversed_pieces_of_one_line_are_joined() -> None:
    first = Segment(0.0, 5.0, 25.0, 30.0, 0.5, reversed=True)
    second = Segment(5.0, 10.0, 20.0, 25.0, 0.5, reversed=True)
    assert [piece.box for piece in merge_pieces([second, first], 1.0)] == [(0.0, 10.0, 20.0, 30.0)]


def test_a_segment_tells_which_reference_second_a_query_second_shows() -> None:
    fast = Segment(2.0, 4.0, 10.0, 14.0, 1.0)
    assert [fast.reference_at(3.0), replace(fast, reversed=True).reference_at(2.5)] == [12.0, 13.0]
