import base64
import io

import numpy as np
from PIL import Image

from copytrace.alignment.segments import SimilarityMatrix
from copytrace.report.similarity_picture import SHADES, even_values, similarity_picture


def seconds(*edges: float) -> np.ndarray:
    return np.array([edges[:-1], edges[1:]], float).T


def test_values_are_clipped_and_each_frame_keeps_its_row_and_column():
    matrix = SimilarityMatrix(np.float32([[0, 1, 2], [-1, 0.5, 0.2]]), seconds(0, 1, 2), seconds(0, 1, 2, 3))
    assert even_values(matrix, 256).tolist() == [[0, 255, 255], [0, 128, 51]]


def test_a_last_frame_that_is_short_does_not_smear_the_others():
    times = seconds(*range(45), 44.5)
    diagonal = SimilarityMatrix(np.eye(45, dtype=np.float32), times, times)
    assert (even_values(diagonal, 256) > 0).sum() <= 46


def test_a_large_matrix_keeps_its_largest_values():
    values = np.zeros((1000, 600), np.float32)
    values[777, 300] = 1
    even = even_values(SimilarityMatrix(values, seconds(*range(1001)), seconds(*range(601))), 100)
    assert even.shape == (100, 100)
    assert even[77, 50] == 255
    assert (even > 0).sum() == 1


def test_seconds_without_a_frame_are_dark_and_long_frames_fill_theirs():
    times = np.array([[0, 1], [1, 2], [6, 8], [8, 9], [9, 10]], float)
    matrix = SimilarityMatrix(np.ones((5, 1), np.float32), times, seconds(0, 1))
    assert even_values(matrix, 256)[:, 0].tolist() == [255, 0, 0, 255, 255]


def test_the_picture_goes_from_dark_to_light():
    encoded = similarity_picture(np.uint8([[0, 255]]))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == [SHADES[0], SHADES[-1]]
