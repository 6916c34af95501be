from collections.abc import Sequence

import numpy as np
import pytest

from copytrace.alignment.align import VideoRows, align_pair, compare_videos
from copytrace.alignment.greedy_aligners import HoughAligner
from copytrace.alignment.segments import Segment

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
HALF_X = (0.6, 0.8, 0.0)


def rows(
    vectors: Sequence[Sequence[float]],
    *,
    starts: Sequence[float] | None = None,
    panes: Sequence[str] | None = None,
    noise: float = 0.0,
) -> VideoRows:
    start = np.arange(len(vectors), dtype=np.float64) if starts is None else np.array(starts, np.float64)
    return VideoRows(
        panes=panes or ["whole"] * len(vectors),
        times=np.stack([start, start + 1], axis=1),
        vectors=np.array(vectors, np.float32),
        noise=np.full(len(vectors), noise, np.float32),
    )


def distinct(count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)


def test_a_value_is_1_for_equal_frames_and_0_at_the_noise_level():
    values = compare_videos(rows([X], noise=0.6), rows([X, HALF_X, Z])).matrix.values
    np.testing.assert_allclose(values, [[1, 0, -1.5]], atol=1e-6)
    assert values.dtype == np.float32


def test_the_weight_scales_the_noise_level():
    values = compare_videos(rows([X], noise=0.4), rows([X, HALF_X]), weight=0.5).matrix.values
    np.testing.assert_allclose(values, [[1, (0.6 - 0.2) / 0.8]], atol=1e-6)


@pytest.mark.parametrize(("noise", "weight"), [(1.0, 1.0), (0.7, 1.5)])
def test_frames_that_all_are_alike_have_finite_values_not_above_0_in_the_order_of_their_cosines(noise, weight):
    values = compare_videos(rows([X], noise=noise), rows([X, HALF_X, Z]), weight=weight).matrix.values[0]
    level = noise * weight
    np.testing.assert_allclose(values, [(1 - level) / 0.1, (0.6 - level) / 0.1, -level / 0.1], atol=1e-5)
    assert values.max() <= 0


def test_only_the_pane_with_the_ten_best_frames_is_compared_as_one_block():
    # The first pane has the one best frame, the second one ten good ones after two that are alike nothing.
    panes = ["whole"] * 12 + ["pane0"] * 12
    vectors = [X] + [Z] * 11 + [Z, Z] + [HALF_X] * 10
    query = rows(vectors, starts=[*range(12), *range(12)], panes=panes)
    compared = compare_videos(query, rows([X, Y]), panes="block")
    np.testing.assert_allclose(compared.matrix.values, [[0, 0]] * 2 + [[0.6, 0.8]] * 10, atol=1e-6)
    assert {compared.panes[number] for number in compared.pane.ravel()} == {"pane0"}
    alone = compare_videos(rows(vectors[:12]), rows([X, Y]), panes="block")
    assert alone.matrix.values[0, 0] == 1.0


def test_panes_of_one_start_are_one_row_with_the_best_value_and_pane_of_each_column():
    query = rows([X, Y, Z], starts=[0, 0, 1], panes=["whole", "pane0", "whole"])
    compared = compare_videos(query, rows([X, Y, HALF_X]))
    np.testing.assert_allclose(compared.matrix.values, [[1, 1, 0.8], [0, 0, 0]], atol=1e-6)
    assert [[compared.panes[number] for number in row] for row in compared.pane] == [
        ["whole", "pane0", "pane0"],
        ["whole", "whole", "whole"],
    ]
    np.testing.assert_array_equal(compared.matrix.query_times, [[0, 1], [1, 2]])


def test_equal_panes_count_as_the_whole_frame():
    compared = compare_videos(rows([X, X], starts=[0, 0], panes=["pane0", "whole"]), rows([X]))
    assert compared.panes[compared.pane[0, 0]] == "whole"


def test_several_rows_of_one_pane_and_start_are_all_compared():
    compared = compare_videos(rows([X, Y, Z], starts=[0, 0, 0]), rows([Y, Z, X]))
    np.testing.assert_allclose(compared.matrix.values, [[1, 1, 1]])


def test_rows_and_columns_are_sorted_by_time():
    compared = compare_videos(rows([X, Y], starts=[5, 2]), rows([X, Y, Z], starts=[9, 7, 8]))
    np.testing.assert_array_equal(compared.matrix.query_times[:, 0], [2, 5])
    np.testing.assert_array_equal(compared.matrix.reference_times[:, 0], [7, 8, 9])
    np.testing.assert_array_equal(compared.matrix.values, [[1, 0, 0], [0, 0, 1]])


def test_panes_of_a_reference_are_one_column_with_the_best_value():
    compared = compare_videos(rows([X, Y]), rows([Y, Z, X], starts=[3, 4, 3], panes=["whole", "whole", "pane0"]))
    np.testing.assert_array_equal(compared.matrix.values, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(compared.matrix.reference_times, [[3, 4], [4, 5]])


@pytest.mark.parametrize(("queries", "references"), [(0, 3), (3, 0), (0, 0)])
def test_a_side_without_frames_gives_an_empty_matrix_and_no_segments(queries: int, references: int):
    sides = rows(distinct(3)[:queries]), rows(distinct(3)[:references])
    assert compare_videos(*sides).matrix.shape == (queries, references)
    assert align_pair(*sides, HoughAligner()) == []


def test_the_pane_of_a_segment_is_the_one_with_most_of_its_line():
    vectors = distinct(8)
    nothing = np.zeros_like(vectors)
    query = VideoRows(
        panes=["whole"] * 8 + ["pane0"] * 8,
        times=np.tile(np.stack([np.arange(8.0), np.arange(1.0, 9)], axis=1), (2, 1)),
        vectors=np.concatenate([np.where(np.arange(8)[:, None] < 3, vectors, nothing), vectors * 0.9]),
        noise=np.zeros(16, np.float32),
    )
    compared = compare_videos(query, rows(vectors))
    assert compared.find_pane(Segment(0, 8, 0, 8, 1.0)) == "pane0"
    assert compared.find_pane(Segment(0, 4, 0, 4, 1.0)) == "whole"


def test_the_line_of_a_reversed_segment_runs_down():
    query = rows([X, Y, Z, Z, Y, X], starts=[0, 1, 2, 0, 1, 2], panes=["whole"] * 3 + ["pane0"] * 3)
    compared = compare_videos(query, rows([X, Y, Z]))
    assert compared.find_pane(Segment(0, 3, 0, 3, 1.0)) == "whole"
    assert compared.find_pane(Segment(0, 3, 0, 3, 1.0, reversed=True)) == "pane0"


def test_a_segment_within_one_frame_is_of_the_pane_of_that_frame():
    query = rows([X, Y, Z], starts=[0, 1, 1], panes=["whole", "whole", "pane0"])
    compared = compare_videos(query, rows([X, Z]))
    assert compared.find_pane(Segment(1.0, 1.4, 1.0, 1.4, 1.0)) == "pane0"
    assert compared.find_pane(Segment(0.0, 0.4, 0.0, 0.4, 1.0)) == "whole"


def test_a_copy_shown_in_a_pane_is_aligned_there():
    count = 40
    frames, other = distinct(2 * count)[:count], distinct(2 * count)[count:]
    seconds = np.stack([np.arange(float(count)), np.arange(1.0, count + 1)], axis=1)
    query = VideoRows(
        panes=["whole"] * count + ["pane1"] * 20,
        times=np.concatenate([seconds, seconds[10:30]]),
        vectors=np.concatenate([other, frames[5:25]]),
        noise=np.full(count + 20, 0.3, np.float32),
    )
    (segment, pane), *_ = align_pair(query, rows(frames), HoughAligner())
    assert pane == "pane1"
    assert segment.box == pytest.approx((10, 30, 5, 25), abs=1.5)
