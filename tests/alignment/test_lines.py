import numpy as np
import pytest

from copytrace.alignment.segments import Plane, fit_line

FRAMES = np.stack([np.arange(4.0), np.arange(1.0, 5.0)], axis=1)


def cut(evidence: np.ndarray, speed: float, offset: float, times: np.ndarray = FRAMES) -> tuple[float, float, float]:
    cuts = Plane(evidence, times, FRAMES, gap=-1.0).cut(np.array([speed]), np.array([offset]))
    return float(cuts.starts[0]), float(cuts.ends[0]), float(cuts.evidence[0])


def test_a_line_is_cut_to_the_stretch_with_the_largest_sum() -> None:
    assert cut(np.diag([-1.0, 2.0, 2.0, -1.0]), 1.0, 0.0) == (1.0, 3.0, 4.0)


def test_a_stretch_reaches_across_a_gap_that_costs_less_than_what_follows() -> None:
    assert cut(np.diag([2.0, -1.0, 2.0, -1.0]), 1.0, 0.0) == (0.0, 3.0, 3.0)


def test_evidence_is_the_integral_over_the_cells_that_a_line_crosses() -> None:
    evidence = np.full((4, 4), -1.0)
    evidence[0, 0], evidence[0, 1] = 1.0, 3.0
    assert cut(evidence, 2.0, 0.0) == (0.0, 1.0, 2.0)  # half a second in each


def test_a_second_without_a_frame_counts_as_the_gap() -> None:
    times = FRAMES + np.array([0.0, 0.0, 1.0, 1.0])[:, None]
    evidence = np.full((4, 4), 2.0)
    assert cut(evidence, 0.5, 0.0, times) == (0.0, 5.0, 7.0)


def test_a_line_outside_the_plane_has_no_evidence() -> None:
    assert cut(np.ones((4, 4)), 1.0, 50.0)[2] == 0.0


def test_cells_under_a_line_are_listed_in_order() -> None:
    rows, columns = Plane(np.ones((4, 4)), FRAMES, FRAMES, gap=0.0).cells_under(2.0, 0.0, 0.0, 1.0)
    assert (rows.tolist(), columns.tolist()) == ([0, 0], [0, 1])


def test_a_fitted_line_goes_through_its_points() -> None:
    query = np.arange(10.0)
    assert fit_line(query, 1.5 * query + 3.0, np.ones(10), prior=0.0) == pytest.approx((1.5, 3.0))


def test_points_of_one_moment_leave_the_speed_at_one() -> None:
    assert fit_line(np.array([2.0]), np.array([7.0]), np.ones(1), prior=0.5) == (1.0, 5.0)
