import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copytrace.alignment.heat_maps import HeatMapRules, heat_map_segments
from copytrace.alignment.segments import Segment, SimilarityMatrix, box_overlaps
from copytrace.errors import ConfigError
from copytrace.training.aligner_labels import label_map

VSC22 = Path(__file__).parents[3] / "shared" / "data" / "fixtures" / "vsc22"
RULES = HeatMapRules()
Grid = Callable[[float, np.random.Generator], np.ndarray]
Case = tuple[Segment, float, float]  # a copy, and the lengths of its query and reference in seconds


def grid(duration: float, rng: np.random.Generator | None = None, frame: float = 1.0) -> np.ndarray:
    starts = np.arange(0.0, duration, frame)
    if not len(starts):
        return np.empty((0, 2))
    return np.stack([starts, np.append(starts[1:], duration)], axis=1)


def irregular(duration: float, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(np.append(0.0, rng.uniform(0.5, 1.5, int(2 * duration) + 4)))
    edges = np.append(edges[edges < duration - 0.2], duration)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def drawn(segments: Sequence[Segment], query: np.ndarray, reference: np.ndarray) -> SimilarityMatrix:
    return SimilarityMatrix(label_map(segments, query, reference), query, reference)


def found(matrix: SimilarityMatrix, rules: HeatMapRules = RULES) -> list[Segment]:
    return heat_map_segments(matrix.values, matrix, rules)


def copy(start: float, end: float, shown: float, speed: float = 1.0, backwards: bool = False) -> Segment:
    return Segment(start, end, shown, shown + speed * (end - start), 1.0, backwards)


def overlap(first: Segment, second: Segment) -> float:
    return float(box_overlaps(np.array([first.box]), np.array([second.box]))[0, 0])


def shortest_side(segment: Segment) -> float:
    return min(segment.query_end - segment.query_start, segment.reference_end - segment.reference_start)


def errors(cases: Sequence[Case], frames: Grid, backwards: bool = False) -> np.ndarray:
    """Errors in seconds of the four ends [N, 4], each copy alone in a perfect map; fails where one is not found."""
    rng = np.random.default_rng(4)
    ends = []
    for true, query_seconds, reference_seconds in cases:
        truth = Segment(*true.box, 1.0, backwards)
        (segment,) = found(drawn([truth], frames(query_seconds, rng), frames(reference_seconds, rng)))
        assert overlap(segment, truth) > 0.3
        # Two or three frames may look alike both ways.
        assert segment.reversed == backwards or shortest_side(true) < 3.0
        ends.append(np.subtract(segment.box, truth.box))
    return np.array(ends)


@pytest.fixture(scope="module")
def made_up() -> list[Case]:
    """Copies as in the Video Similarity Challenge 2022: 2.2 s to 30 s long, at 0.6 to 1.5 times the speed."""
    rng = np.random.default_rng(11)
    cases: list[Case] = []
    while len(cases) < 80:
        speed, length = np.exp(rng.uniform(np.log(0.6), np.log(1.5))), rng.uniform(2.2, 15.0) * rng.choice([1, 2])
        if speed * length < 2.2:
            continue
        before, shown_before, after, shown_after = rng.uniform(0.0, 20.0, 4)
        true = copy(before, before + length, shown_before, speed)
        cases.append((true, true.query_end + after, true.reference_end + shown_after))
    return cases


@pytest.fixture(scope="module")
def vsc22() -> list[Case]:
    """80 true segments of the Video Similarity Challenge 2022, in videos of their real length."""
    if not VSC22.exists():
        pytest.skip("the ground truth of the Video Similarity Challenge 2022 is not here")
    tables = [f"train_{name}.csv" for name in ("matching_ground_truth", "query_metadata", "reference_metadata")]
    truth, *videos = (list(csv.DictReader((VSC22 / table).read_text().splitlines())) for table in tables)
    seconds = {row["video_id"]: float(row["duration_sec"]) for table in videos for row in table}
    cases: list[Case] = []
    for index in np.random.default_rng(0).permutation(len(truth)):
        row = truth[index]
        box = [float(row[name]) for name in ("query_start", "query_end", "ref_start", "ref_end")]
        lengths = seconds[row["query_id"]], seconds[row["ref_id"]]
        # A few true segments end after their video.
        if box[1] <= lengths[0] and box[3] <= lengths[1]:
            cases.append((Segment(box[0], box[1], box[2], box[3], 1.0), *lengths))
    return cases[:80]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("cases", ["made_up", "vsc22"])
def test_every_copy_of_two_seconds_or_more_is_found_and_its_ends_are_not_biased(
    cases: str, backwards: bool, request: pytest.FixtureRequest
) -> None:
    off = errors(request.getfixturevalue(cases)[:: 2 if backwards else 1], grid, backwards)
    assert np.abs(off.mean(axis=0)).max() < 0.05
    assert np.abs(off).mean() < 0.2


@pytest.mark.parametrize(
    ("frames", "frame"), [(partial(grid, frame=2.0), 2.0), (partial(grid, frame=0.5), 0.5), (irregular, 1.0)]
)
def test_ends_are_within_a_fifth_of_a_frame_on_average_whatever_the_frames(
    made_up: list[Case], frames: Grid, frame: float
) -> None:
    off = errors([case for case in made_up[:50] if shortest_side(case[0]) >= 2.2 * frame], frames)
    assert np.abs(off.mean(axis=0)).max() < 0.1 * frame
    assert np.abs(off).mean() < 0.22 * frame


@pytest.mark.parametrize("speed", [0.42, 0.5, 1.0, 2.0, 2.4])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_copy_is_found_at_any_plausible_speed(speed: float, backwards: bool) -> None:
    true = copy(7.3, 22.6, 4.1, speed, backwards)
    (segment,) = found(drawn([true], grid(30.0), grid(50.0)))
    assert overlap(segment, true) > 0.85
    assert segment.reversed == backwards


def test_lines_steeper_or_flatter_than_any_copy_are_not_segments() -> None:
    steep, flat = copy(10.0, 14.0, 3.0, 9.0), copy(5.0, 45.0, 12.0, 0.1)
    for line in (steep, flat):
        segments = found(drawn([line], grid(50.0), grid(50.0)))
        assert all(overlap(segment, line) < 0.5 for segment in segments)
        assert all(0.36 < segment.speed < 2.75 for segment in segments)


def test_crossing_parallel_and_reversed_lines_are_all_found() -> None:
    truth = [copy(5.0, 35.0, 5.0), copy(8.0, 32.0, 9.0, 1.0, True), copy(5.0, 25.0, 22.0)]
    segments = found(drawn(truth, grid(40.0), grid(50.0)))
    assert len(segments) == 3
    for true in truth:
        same = [segment for segment in segments if segment.reversed == true.reversed]
        assert max(overlap(segment, true) for segment in same) > 0.8


def test_a_copy_that_turns_back_is_two_segments() -> None:
    truth = [copy(5.0, 15.0, 10.0), copy(15.0, 25.0, 10.0, 1.0, True)]
    segments = found(drawn(truth, grid(30.0), grid(30.0)))
    assert sorted(segment.reversed for segment in segments) == [False, True]
    for true in truth:
        (segment,) = (one for one in segments if one.reversed == true.reversed)
        assert overlap(segment, true) > 0.75


def test_a_line_broken_by_two_dark_frames_is_one_segment_and_by_fifteen_two() -> None:
    matrix = drawn([copy(5.0, 45.0, 10.0)], grid(50.0), grid(60.0))
    matrix.values[20:22] = 0.0
    (segment,) = found(matrix)
    assert segment.box == pytest.approx((5.0, 45.0, 10.0, 50.0), abs=0.7)
    matrix.values[17:32] = 0.0
    assert len(found(matrix)) == 2


def test_a_faint_line_is_as_long_as_a_bright_one_but_scores_less() -> None:
    matrix = drawn([copy(8.4, 19.0, 6.2, 1.1)], grid(30.0), grid(30.0))
    (bright,) = found(matrix)
    (faint,) = heat_map_segments(0.4 * matrix.values, matrix, RULES)
    assert faint.box == pytest.approx(bright.box, abs=0.3)
    assert 0.0 < faint.score < bright.score < 1.0


def test_the_score_is_half_at_the_half_evidence_and_grows_with_length() -> None:
    scores = []
    for length in (3.0, 10.0, 30.0):
        (segment,) = found(drawn([copy(2.0, 2.0 + length, 3.0)], grid(40.0), grid(40.0)))
        scores.append(segment.score)
    assert scores == sorted(scores)
    # Eight seconds of heat 0.9, over the threshold of 0.15, are six seconds of evidence.
    heat = np.zeros((20, 20), np.float32)
    heat[np.arange(4, 12), np.arange(6, 14)] = 0.9
    matrix = SimilarityMatrix(heat, grid(20.0), grid(20.0))
    (segment,) = found(matrix, HeatMapRules(half_evidence=6.0))
    assert segment.score == pytest.approx(0.5, abs=0.01)


def test_a_copy_to_the_very_end_of_both_videos_ends_with_them() -> None:
    (segment,) = found(drawn([copy(5.0, 20.4, 10.0)], grid(20.4), grid(25.4)))
    assert segment.query_end == pytest.approx(20.4, abs=0.2)
    assert segment.reference_end == pytest.approx(25.4, abs=0.2)


def test_seconds_without_a_frame_do_not_become_part_of_a_copy() -> None:
    query = grid(20.0)
    query[10:] += 30.0
    heat = np.eye(20, dtype=np.float32)
    heat[10:] = 0.0
    (segment,) = heat_map_segments(heat, SimilarityMatrix(heat, query, grid(20.0)), RULES)
    assert segment.query_end < 11.0


def test_noise_blots_and_blur_move_the_ends_by_less_than_half_a_frame_on_average(made_up: list[Case]) -> None:
    rng = np.random.default_rng(2)
    off, lost = [], 0
    for true, query_seconds, reference_seconds in made_up[:60]:
        matrix = drawn([true], grid(query_seconds), grid(reference_seconds))
        heat = matrix.values * rng.uniform(0.5, 1.0) * rng.lognormal(0.0, 0.25, matrix.shape)
        heat += np.clip(rng.normal(0.0, 0.04, matrix.shape), 0.0, None)
        row, column = (rng.integers(length) for length in matrix.shape)
        heat[row : row + 4, column : column + 4] += 0.3
        segments = heat_map_segments(np.clip(heat, 0.0, 1.0).astype(np.float32), matrix, RULES)
        near = [segment for segment in segments if overlap(segment, true) > 0.3]
        lost += not near
        off += [np.subtract(segment.box, true.box) for segment in near[:1]]
    assert lost <= 3
    assert np.abs(off).mean() < 0.5


def test_maps_without_heat_or_cells_have_no_segments() -> None:
    for shape in ((0, 0), (0, 5), (1, 1), (6, 4)):
        heat = np.zeros(shape, np.float32)
        matrix = SimilarityMatrix(heat, grid(shape[0]), grid(shape[1]))
        assert found(matrix) == []


def test_maps_of_another_shape_or_with_nan_are_refused() -> None:
    matrix = SimilarityMatrix(np.zeros((4, 5), np.float32), grid(4.0), grid(5.0))
    with pytest.raises(ValueError, match="heat map is"):
        heat_map_segments(matrix.values.T, matrix, RULES)
    with pytest.raises(ValueError, match="NaN"):
        heat_map_segments(np.full((4, 5), np.nan, np.float32), matrix, RULES)


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.0}, {"max_speed": 1.0}])
def test_rules_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        HeatMapRules(**wrong)


copies = st.builds(
    copy,
    st.floats(0.0, 20.0),
    st.floats(25.0, 38.0),
    st.floats(0.0, 15.0),
    st.floats(0.6, 1.6),
    st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(copies)
def test_transposing_the_map_transposes_the_segment(true: Segment) -> None:
    matrix = drawn([true], grid(40.0), grid(70.3))
    (segment,), (turned,) = found(matrix), found(matrix.transpose())
    assert (*turned.box[2:], *turned.box[:2]) == pytest.approx(segment.box, abs=0.15)
    assert turned.score == pytest.approx(segment.score, abs=0.02)
    assert turned.reversed == segment.reversed


@settings(max_examples=25, deadline=None)
@given(copies, st.floats(-500.0, 5000.0), st.floats(-500.0, 5000.0))
def test_shifting_the_times_shifts_the_segment(true: Segment, later: float, reference_later: float) -> None:
    matrix = drawn([true], grid(40.0), grid(70.3))
    moved = SimilarityMatrix(matrix.values, matrix.query_times + later, matrix.reference_times + reference_later)
    (segment,), (shifted,) = found(matrix), found(moved)
    back = np.subtract(shifted.box, (later, later, reference_later, reference_later))
    assert back == pytest.approx(segment.box, abs=1e-3)
    assert shifted.score == pytest.approx(segment.score, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25))
def test_segments_of_any_map_lie_within_both_videos_best_first(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    query, reference = irregular(rows, rng), irregular(columns, rng)
    heat = (rng.random((len(query), len(reference))) ** rng.integers(1, 6)).astype(np.float32)
    segments = found(SimilarityMatrix(heat, query, reference))
    for segment in segments:
        assert query[0, 0] <= segment.query_start < segment.query_end <= query[-1, 1]
        assert reference[0, 0] <= segment.reference_start < segment.reference_end <= reference[-1, 1]
        assert 0.0 <= segment.score <= 1.0
    assert [one.score for one in segments] == sorted((one.score for one in segments), reverse=True)
