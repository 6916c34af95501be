import numpy as np
import pytest

from copytrace.alignment.heat_maps_vsc22 import vsc22_segments
from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.training.aligner_labels import label_map


def seconds(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1).astype(np.float64)


def matrix_of(heat: np.ndarray) -> SimilarityMatrix:
    return SimilarityMatrix(heat.astype(np.float32), *(seconds(length) for length in heat.shape))


def segments_of(heat: np.ndarray) -> list[Segment]:
    matrix = matrix_of(heat)
    return vsc22_segments(matrix.values, matrix)


def drawn(*truth: Segment) -> np.ndarray:
    return label_map(truth, seconds(50), seconds(50))


def test_a_segment_goes_from_the_start_of_its_first_frame_to_the_start_of_its_last() -> None:
    best = segments_of(drawn(Segment(5.0, 25.0, 12.0, 32.0, 1.0)))[0]
    assert best.box == pytest.approx((5.0, 24.0, 12.0, 31.0), abs=1.0)
    assert best.query_end < 25.0
    assert best.score > 0.8


def test_copies_played_backwards_and_of_two_seconds_are_missed() -> None:
    assert segments_of(drawn(Segment(5.0, 25.0, 12.0, 32.0, 1.0, True))) == []
    assert segments_of(drawn(Segment(5.0, 7.2, 12.0, 14.2, 1.0))) == []


def test_a_map_without_a_line_has_no_segment() -> None:
    assert segments_of(np.zeros((12, 12))) == []
    assert segments_of(np.zeros((0, 12))) == []
    upright = np.zeros((12, 12))
    upright[:, 4] = 1.0  # slope 0
    assert segments_of(upright) == []


def test_scattered_cells_are_no_segment() -> None:
    heat = np.zeros((5, 200))
    heat[np.arange(5), [0, 190, 5, 100, 30]] = 1.0
    assert segments_of(heat) == []


def test_equal_segments_of_several_thresholds_are_one_with_the_best_score() -> None:
    segments = segments_of(drawn(Segment(5.0, 25.0, 12.0, 32.0, 1.0), Segment(30.0, 45.0, 3.0, 18.0, 1.0)))
    boxes = [segment.box for segment in segments]
    assert len(set(boxes)) == len(boxes)
    assert [segment.score for segment in segments] == sorted((one.score for one in segments), reverse=True)


def test_a_map_of_another_shape_is_refused() -> None:
    matrix = matrix_of(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="heat map is"):
        vsc22_segments(matrix.values.T, matrix)
