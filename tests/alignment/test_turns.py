"""Queries that show a stretch of a reference several times, or forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest

from copytrace.alignment.aligners import SimilarityMatrix, build_aligner
from copytrace.alignment.segments import Segment
from copytrace.alignment.turns import find_turns

FRAMES = 40
FPS = 2.0


def times(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1) / FPS


def shown(columns: list[int]) -> SimilarityMatrix:
    """Return the similarities of a query that shows these frames of a reference, whose frames are like their next."""
    distance = np.abs(np.array(columns)[:, None] - np.arange(FRAMES))
    noise = np.random.default_rng(1).normal(0, 0.03, distance.shape)
    values = np.where(distance < 3, 0.95 - 0.3 * distance, 0.0) + noise
    return SimilarityMatrix(values.astype(np.float32), times(len(columns)), times(FRAMES))


def overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return shared / (max(first[1], second[1]) - min(first[0], second[0]))


def by_query(segments: list[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda segment: segment.query_start)


@pytest.mark.parametrize("times_shown", [2, 3])
def test_a_loop_is_one_segment_for_each_time_that_it_is_shown(times_shown: int) -> None:
    segments = by_query(build_aligner("hough").align(shown(list(range(10, 24)) * times_shown)))
    assert len(segments) == times_shown
    for number, segment in enumerate(segments):
        assert overlap((segment.query_start, segment.query_end), (7 * number, 7 * number + 7)) > 0.8
        assert overlap((segment.reference_start, segment.reference_end), (5, 12)) > 0.8
        assert not segment.reversed


def test_the_way_back_of_a_boomerang_is_a_segment_of_its_own_and_reversed() -> None:
    there = list(range(8, 24))
    segments = by_query(build_aligner("hough").align(shown(there + there[::-1])))
    assert [segment.reversed for segment in segments] == [False, True]
    for number, segment in enumerate(segments):
        assert overlap((segment.query_start, segment.query_end), (8 * number, 8 * number + 8)) > 0.8
        assert overlap((segment.reference_start, segment.reference_end), (4, 12)) > 0.8


@pytest.mark.parametrize("columns", [list(range(5, 35)), list(range(34, 4, -1)), [*range(0, 40, 2)]])
def test_a_stretch_that_is_shown_once_has_no_turn(columns: list[int]) -> None:
    assert len(build_aligner("hough").align(shown(columns))) == 1


def test_a_still_has_no_turn() -> None:
    evidence = np.full((12, 30), 0.6)
    assert find_turns(evidence, 1.0, 0.35) == []


def test_turns_are_the_rows_at_which_the_best_path_leaves_its_line() -> None:
    evidence = np.full((12, 20), -0.5)
    for row, column in enumerate([3, 4, 5, 6, 3, 4, 5, 6, 6, 5, 4, 3]):
        evidence[row, column] = 0.5
    assert find_turns(evidence, 1.0, 0.35) == [4, 8]
    assert find_turns(evidence, 1.0, 100.0) == []
    assert find_turns(evidence[:1], 1.0, 0.35) == find_turns(evidence[:, :0], 1.0, 0.35) == []
