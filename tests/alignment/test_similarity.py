import numpy as np
import pytest

from copytrace.alignment.segments import SimilarityMatrix

TIMES = np.array([[0.0, 1.0], [1.0, 2.5]])


def matrix(values: list[list[float]], query: np.ndarray = TIMES, reference: np.ndarray = TIMES) -> SimilarityMatrix:
    return SimilarityMatrix(np.array(values, np.float32), query, reference)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="drop the frames without a descriptor"):
        matrix([[0.0, bad], [0.0, 0.0]])


def test_times_for_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\), but its times are for \(2, 2\)"):
        matrix([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES[::-1], "query times are not ascending"),
        (TIMES[:, ::-1], "query times have a frame that does not end after it starts"),
        (np.full((2, 2), np.nan), "query times have NaN"),
        (np.arange(2.0), "not \\[frames, 2\\]"),
    ],
)
def test_times_that_make_no_sense_are_refused(times: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrix([[0.0, 0.0], [0.0, 0.0]], query=times)


def test_the_transposed_matrix_exchanges_values_and_times() -> None:
    turned = matrix([[1.0, 2.0]], query=TIMES[:1]).transpose()
    assert turned.values.tolist() == [[1.0], [2.0]]
    assert turned.shape == (2, 1)
    assert turned.query_times.tolist() == TIMES.tolist()


def test_a_part_keeps_its_own_times() -> None:
    part = matrix([[1.0, 2.0], [3.0, 4.0]]).part(slice(1, 2), slice(0, 2))
    assert (part.values.tolist(), part.query_times.tolist()) == ([[3.0, 4.0]], [[1.0, 2.5]])
