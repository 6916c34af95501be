import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from copytrace.alignment.aligners import TRAINING_FREE, Aligner, SimilarityMatrix, TiledAligner, build_aligner
from copytrace.alignment.segments import Segment
from copytrace.errors import ConfigError

Box = tuple[float, float, float, float]


def seconds(count: int, length: float = 1.0) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(1, count + 1)], axis=1) * length


def copied(
    *boxes: Box,
    query: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    backwards: bool = False,
    strength: float = 0.8,
) -> SimilarityMatrix:
    """Each query frame inside a box is like the reference frames near the moment that it shows, less so per second."""
    query = seconds(60) if query is None else query
    reference = seconds(60) if reference is None else reference
    middles, reference_middles = query.mean(axis=1), reference.mean(axis=1)
    values = np.random.default_rng(7).normal(-0.5, 0.1, (len(query), len(reference)))
    for start, end, reference_start, reference_end in boxes:
        share = (middles - start) / (end - start)
        shown = reference_start + (1 - share if backwards else share) * (reference_end - reference_start)
        alike = strength * (1 - np.abs(shown[:, None] - reference_middles) / 1.2)
        inside = (share >= 0) & (share < 1)
        values[inside] = np.maximum(values, alike)[inside]
    return SimilarityMatrix(values.astype(np.float32), query, reference)


def overlap(segment: Segment, box: Box) -> float:
    sides = [min(segment.box[at + 1], box[at + 1]) - max(segment.box[at], box[at]) for at in (0, 2)]
    shared = max(0.0, sides[0]) * max(0.0, sides[1])
    return shared / (sum((b[1] - b[0]) * (b[3] - b[2]) for b in (segment.box, box)) - shared)


@pytest.fixture(params=TRAINING_FREE)
def aligner(request: pytest.FixtureRequest) -> Aligner:
    return build_aligner(request.param)


@pytest.mark.parametrize("speed", [0.5, 0.7, 1.0, 1.4, 2.0])
def test_a_copy_is_found_at_any_speed(aligner: Aligner, speed: float) -> None:
    box = (11.0, 27.0, 8.0, 8.0 + 16.0 * speed)
    (segment,) = aligner.align(copied(box))
    assert overlap(segment, box) > 0.85
    assert not segment.reversed


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_a_copy_played_backwards_is_found_and_says_so(aligner: Aligner, speed: float) -> None:
    box = (11.0, 27.0, 8.0, 8.0 + 16.0 * speed)
    (segment,) = aligner.align(copied(box, backwards=True))
    assert overlap(segment, box) > 0.85
    assert segment.reversed


def test_the_last_frame_belongs_to_the_segment(aligner: Aligner) -> None:
    (segment,) = aligner.align(copied((0.0, 60.0, 0.0, 60.0)))
    assert segment.box == pytest.approx((0.0, 60.0, 0.0, 60.0), abs=0.15)


def test_a_copy_of_three_frames_is_found(aligner: Aligner) -> None:
    box = (20.0, 23.0, 31.0, 34.0)
    (segment,) = aligner.align(copied(box))
    assert overlap(segment, box) > 0.6


def test_an_hour_at_an_odd_speed_is_one_segment(aligner: Aligner) -> None:
    frames = seconds(600, 6.0)
    box = (60.0, 3000.0, 100.0, 3334.0)
    values = np.full((600, 600), -0.5, np.float32)
    rows = np.arange(10, 500)
    values[rows, ((100.0 + 1.1 * (frames[rows].mean(axis=1) - 60.0)) / 6.0).astype(int)] = 0.7
    (segment,) = aligner.align(SimilarityMatrix(values, frames, frames))
    assert overlap(segment, box) > 0.98


def test_two_copies_in_one_pair_are_two_segments(aligner: Aligner) -> None:
    boxes = [(2.0, 20.0, 40.0, 58.0), (30.0, 45.0, 5.0, 20.0)]
    segments = aligner.align(copied(*boxes))
    assert [overlap(segment, box) > 0.85 for segment, box in zip(segments, boxes, strict=True)] == [True, True]


def test_the_same_query_seconds_can_show_two_places_of_the_reference(aligner: Aligner) -> None:
    boxes = [(10.0, 30.0, 5.0, 25.0), (10.0, 30.0, 11.0, 31.0)]
    segments = aligner.align(copied(*boxes))
    assert len(segments) == 2
    assert all(max(overlap(segment, box) for segment in segments) > 0.8 for box in boxes)


def test_unseen_frames_do_not_split_a_segment(aligner: Aligner) -> None:
    box = (10.0, 40.0, 15.0, 45.0)
    matrix = copied(box)
    matrix.values[20:24] = -0.6
    (segment,) = aligner.align(matrix)
    assert overlap(segment, box) > 0.9


def test_frames_of_uneven_length_are_placed_by_their_times(aligner: Aligner) -> None:
    rng = np.random.default_rng(3)
    times = []
    for _ in range(2):
        edges = np.concatenate([[0.0], np.cumsum(rng.uniform(0.3, 1.7, 60))])
        times.append(np.stack([edges[:-1], edges[1:]], axis=1))
    box = (12.0, 38.0, 20.0, 46.0)
    best = aligner.align(copied(box, query=times[0], reference=times[1]))[0]
    assert overlap(best, box) > 0.8


def test_videos_sampled_at_different_rates_are_aligned_in_seconds(aligner: Aligner) -> None:
    box = (12.0, 38.0, 10.0, 36.0)
    best = aligner.align(copied(box, query=seconds(120, 0.5), reference=seconds(60)))[0]
    assert overlap(best, box) > 0.9


def test_starts_and_ends_are_not_biased(aligner: Aligner) -> None:
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(60):
        length, speed = rng.uniform(6.0, 24.0), rng.uniform(0.6, 1.7)
        start, reference_start = rng.uniform(1.0, 35.0), rng.uniform(1.0, 58.0 - length * speed)
        box = (start, start + length, reference_start, reference_start + length * speed)
        errors.append(np.array(aligner.align(copied(box))[0].box) - np.array(box))
    bias = np.mean(errors, axis=0)
    assert np.abs([bias[0::2].mean(), bias[1::2].mean()]).max() < 0.1
    assert np.abs(errors).mean() < 0.5


def test_unrelated_videos_have_no_segment(aligner: Aligner) -> None:
    assert aligner.align(copied()) == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_empty_matrix_has_no_segment(aligner: Aligner, shape: tuple[int, int]) -> None:
    empty = SimilarityMatrix(np.zeros(shape, np.float32), seconds(shape[0]), seconds(shape[1]))
    assert aligner.align(empty) == []


def test_a_matrix_of_one_frame_each_is_one_short_segment(aligner: Aligner) -> None:
    (segment,) = aligner.align(SimilarityMatrix(np.ones((1, 1), np.float32), seconds(1), seconds(1)))
    assert segment.box == pytest.approx((0.0, 1.0, 0.0, 1.0), abs=0.2)


def test_aligning_leaves_the_matrix_as_it_was(aligner: Aligner) -> None:
    matrix = copied((5.0, 25.0, 10.0, 30.0))
    before = matrix.values.copy()
    aligner.align(matrix)
    assert (matrix.values == before).all()


def test_the_same_matrix_gives_the_same_segments(aligner: Aligner) -> None:
    matrix = copied((5.0, 25.0, 10.0, 30.0), (30.0, 50.0, 35.0, 55.0))
    assert aligner.align(matrix) == aligner.align(matrix)


boxes = st.builds(
    lambda start, length, reference_start, speed: (
        start,
        start + length,
        reference_start,
        reference_start + length * speed,
    ),
    st.floats(0.0, 34.0),
    st.floats(6.0, 25.0),
    st.floats(0.0, 20.0),
    st.floats(0.6, 1.6),
)
few = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("name", TRAINING_FREE)
@few
@given(box=boxes)
def test_exchanging_query_and_reference_exchanges_the_two_sides_of_a_segment(name: str, box: Box) -> None:
    matrix = copied(box)
    # The frames of neither video go on resembling the other's beyond the copy, or the two sides would differ.
    beyond = (matrix.reference_times[:, 0] < box[2] - 0.5) | (matrix.reference_times[:, 1] > box[3] + 0.5)
    matrix.values[:, beyond] = -0.5
    best, turned = (build_aligner(name).align(view)[0] for view in (matrix, matrix.transpose()))
    difference = np.subtract(turned.box, (*best.box[2:], *best.box[:2]))
    assert np.abs(difference).max() < 2.0  # a frame of either clock


@pytest.mark.parametrize("name", TRAINING_FREE)
@few
@given(box=boxes, shift=st.floats(-100.0, 100.0), reference_shift=st.floats(-100.0, 100.0))
def test_shifting_the_clocks_shifts_the_segments(name: str, box: Box, shift: float, reference_shift: float) -> None:
    matrix = copied(box)
    moved = SimilarityMatrix(matrix.values, matrix.query_times + shift, matrix.reference_times + reference_shift)
    best, later = (build_aligner(name).align(view)[0] for view in (matrix, moved))
    expected = np.add(best.box, (shift, shift, reference_shift, reference_shift))
    assert overlap(later, tuple(expected)) > 0.9


@pytest.mark.parametrize("name", TRAINING_FREE)
@few
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), columns=st.integers(1, 40), level=st.floats(-0.6, 0.6))
@example(seed=0, rows=7, columns=1, level=0.5)  # nothing of the reference is left to compare with
def test_segments_lie_within_the_videos_best_first(name: str, seed: int, rows: int, columns: int, level: float) -> None:
    values = np.random.default_rng(seed).normal(level, 0.4, (rows, columns)).astype(np.float32)
    segments = build_aligner(name).align(SimilarityMatrix(values, seconds(rows), seconds(columns)))
    for segment in segments:
        assert -1e-9 <= segment.query_start < segment.query_end <= rows + 1e-9
        assert -1e-9 <= segment.reference_start < segment.reference_end <= columns + 1e-9
        assert 0.0 <= segment.score < 1.0
        assert segment.score > 0.0 or len(segments) == 1
    assert segments == sorted(segments, key=lambda segment: -segment.score)


@pytest.mark.parametrize("name", TRAINING_FREE)
@few
@given(box=boxes, strength=st.floats(0.3, 0.8))
def test_a_clearer_copy_scores_higher(name: str, box: Box, strength: float) -> None:
    aligner = build_aligner(name)
    faint, clear = (aligner.align(copied(box, strength=level))[0] for level in (strength, strength + 0.2))
    assert clear.score > faint.score


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_a_longer_copy_scores_higher(name: str) -> None:
    scores = [build_aligner(name).align(copied((5.0, end, 5.0, end)))[0].score for end in (10.0, 20.0, 40.0)]
    assert scores == sorted(scores)


def test_a_copy_that_crosses_tiles_is_one_segment(aligner: Aligner) -> None:
    assert isinstance(aligner, TiledAligner)
    boxes = [(10.0, 180.0, 20.0, 190.0), (30.0, 60.0, 150.0, 180.0)]
    matrix = copied(*boxes, query=seconds(200), reference=seconds(200))
    segments = TiledAligner(aligner.aligner, max_side=80, overlap=20).align(matrix)
    assert [overlap(segment, box) > 0.85 for segment, box in zip(segments, boxes, strict=True)] == [True, True]


def test_a_reversed_copy_that_crosses_tiles_is_one_segment(aligner: Aligner) -> None:
    assert isinstance(aligner, TiledAligner)
    box = (10.0, 180.0, 20.0, 190.0)
    matrix = copied(box, query=seconds(200), reference=seconds(200), backwards=True)
    (segment,) = TiledAligner(aligner.aligner, max_side=80, overlap=20).align(matrix)
    assert overlap(segment, box) > 0.85
    assert segment.reversed


def test_tiles_that_share_all_their_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot share 80"):
        TiledAligner(build_aligner(), max_side=80, overlap=80)


def test_an_unknown_aligner_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'spd'; choose one of hough, dynamic_programming, network"):
        build_aligner("spd")


def test_an_unknown_setting_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no setting slope; it has threshold"):
        build_aligner("hough", slope=2)
