from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from copytrace.alignment.segments import Segment, SimilarityMatrix
from copytrace.errors import InputError
from copytrace.search.video_ranking import CANDIDATE_SCHEMA
from copytrace.storage import remove_tree, resolve_path, write_json
from copytrace.synthesis.synthetic_matrices import LENGTHS, SyntheticMatrices, draw_segments
from copytrace.training.matrices import LabeledPair, LabeledPairs, detect_direction, fold_number, read_labeled_pairs
from copytrace.training.matrix_edits import change_rates, change_values, crop_window, flip_axes, pad_to_canvas
from copytrace.training.matrix_examples import AlignerExamples, MatrixSource, PairExamples

Run = tuple[Path, Path]


def matrix_of(rows: int, columns: int, seed: int = 0) -> SimilarityMatrix:
    """A matrix with a bright main diagonal in noise."""
    values = np.random.default_rng(seed).uniform(-0.4, 0.0, (rows, columns)).astype(np.float32)
    shared = range(min(rows, columns))
    values[shared, shared] = 0.8
    axes = [np.stack([np.arange(count), np.arange(count) + 1.0], axis=1) for count in (rows, columns)]
    return SimilarityMatrix(values, *axes)


def pair_of(query: str, score: float, *segments: Segment) -> LabeledPair:
    return LabeledPair(0, query, "R", score, matrix_of(20, 30), segments)


COPY = Segment(0.0, 20.0, 0.0, 20.0, 1.0)


@pytest.fixture(scope="module")
def labelled(video_run: Run) -> LabeledPairs:
    return read_labeled_pairs([video_run])


def test_a_run_gives_every_candidate_pair_with_its_true_segments(labelled: LabeledPairs) -> None:
    assert len(labelled.pairs) == 10 * 5
    true = [pair for pair in labelled.pairs if pair.is_true]
    assert {(pair.query, pair.reference) for pair in true} == {(f"Q{n}", f"R{n % 5}") for n in range(10)}
    assert {segment.box for pair in true for segment in pair.segments} == {(4.0, 14.0, 5.0, 15.0)}
    on_line = [pair.matrix.values[range(4, 14), range(5, 15)].mean() for pair in true]
    assert min(on_line) > 0.7
    assert not any(segment.reversed for pair in true for segment in pair.segments)


def test_a_run_in_a_store_gives_the_same_pairs(video_run: Run, labelled: LabeledPairs) -> None:
    (run, truth), there = video_run, resolve_path("memory://matrices")
    for path in (path for path in run.rglob("*") if path.is_file()):
        (there / path.relative_to(run).as_posix()).write_bytes(path.read_bytes())
    told = json.loads((run / "run.json").read_text())
    indexes = {role: str(there / "work" / role) for role in ("queries", "references")}
    write_json(there / "run.json", told | {"indexes": indexes})
    (there / "truth.csv").write_bytes(truth.read_bytes())
    found = read_labeled_pairs([(there, there / "truth.csv")])
    assert found.digest == labelled.digest
    assert len(found.pairs) == len(labelled.pairs)
    remove_tree(there)


def test_a_true_pair_that_the_search_missed_is_there_without_a_score(video_run: Run, tmp_path: Path) -> None:
    run, truth = video_run
    other = tmp_path / "truth.csv"
    other.write_text(truth.read_text() + "Q0,R1,0.0,3.0,0.0,3.0\n")
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "work" / "candidates" / "00000.parquet"
    table = pq.read_table(path, schema=CANDIDATE_SCHEMA)
    missed = pc.and_(pc.equal(table["query_id"], "Q0"), pc.equal(table["reference_id"], "R1"))
    pq.write_table(table.filter(pc.invert(missed)), path)
    path.with_suffix(".json").unlink()  # it has the checksums of the former content
    found = {(pair.query, pair.reference): pair for pair in read_labeled_pairs([(tmp_path / "run", other)]).pairs}
    assert found["Q0", "R1"].score == -np.inf
    assert found["Q0", "R1"].is_true
    assert len(found) == 50


def test_the_same_pairs_of_two_runs_count_twice(video_run: Run, labelled: LabeledPairs) -> None:
    both = read_labeled_pairs([video_run, video_run])
    assert len(both.pairs) == 2 * len(labelled.pairs)
    assert {pair.run for pair in both.pairs} == {0, 1}
    assert both.digest != labelled.digest


def test_no_query_is_on_both_sides_of_a_split(labelled: LabeledPairs) -> None:
    learned, kept_out = labelled.split(0, 2, 0)
    assert {pair.query for pair in learned}.isdisjoint(pair.query for pair in kept_out)
    assert len(learned) + len(kept_out) == 50
    assert {fold_number(pair.query, 2, 0) for pair in kept_out} == {0}


def test_every_query_is_of_one_fold_whatever_the_runs() -> None:
    folds = [fold_number(f"Q{number}", 5, 0) for number in range(2000)]
    assert np.bincount(folds, minlength=5).min() > 330
    assert folds != [fold_number(f"Q{number}", 5, 1) for number in range(2000)]


def test_a_fold_without_copies_is_refused() -> None:
    pairs = tuple(pair_of(f"Q{number}", 0.5) for number in range(10))
    with pytest.raises(InputError, match="0 are copies; both copies and other pairs are needed"):
        LabeledPairs(pairs, "").split(0, 2, 0)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, video_run: Run) -> None:
    with pytest.raises(InputError, match="is not a finished index; give a folder that match-videos wrote"):
        read_labeled_pairs([(tmp_path, video_run[1])])


def test_a_copy_whose_frames_are_alike_backwards_is_taken_for_reversed() -> None:
    matrix = matrix_of(20, 20)
    backwards = SimilarityMatrix(matrix.values[:, ::-1], matrix.query_times, matrix.reference_times)
    assert not detect_direction(COPY, matrix).reversed
    assert detect_direction(COPY, backwards).reversed


def test_other_frame_rates_keep_the_seconds_of_the_diagonal() -> None:
    for seed in range(20):
        matrix = change_rates(matrix_of(40, 40), np.random.default_rng(seed))
        query, reference = matrix.query_times.mean(axis=1), matrix.reference_times.mean(axis=1)
        frame = max(np.median(np.diff(query)), np.median(np.diff(reference)))
        brightest = reference[matrix.values.argmax(axis=1)]
        assert np.median(np.abs(brightest - query)) <= frame
        assert matrix.query_times[-1, 1] == pytest.approx(40, abs=frame)


def test_a_window_is_small_enough_and_mostly_shows_the_segment() -> None:
    segment, matrix = Segment(70.0, 80.0, 40.0, 50.0, 1.0), matrix_of(120, 60)
    shown = 0
    for seed in range(400):
        part = crop_window(matrix, [segment], 32, np.random.default_rng(seed))
        assert max(part.shape) <= 32
        starts, ends = part.query_times[0, 0], part.query_times[-1, 1]
        shown += starts <= 75 <= ends and part.reference_times[0, 0] <= 45 <= part.reference_times[-1, 1]
    assert shown > 0.74 * 400  # four times in five, of which so many draws tell to 0.02


def test_values_and_labels_are_turned_alike() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    outcomes = set()
    for seed in range(60):
        one, other = flip_axes(values, values + 100, np.random.default_rng(seed))
        assert (other == one + 100).all()
        outcomes.add((one.shape, one.ravel()[0], one.ravel()[-1]))
    assert len(outcomes) == 8


def test_revalued_values_stay_near_what_they_were() -> None:
    values = matrix_of(12, 9).values
    assert values.flags.writeable
    kept = values.copy()
    for seed in range(40):
        changed = change_values(values, np.random.default_rng(seed))
        assert changed.shape == values.shape
        assert changed.dtype == np.float32
        assert np.corrcoef(changed.ravel(), kept.ravel())[0, 1] > 0.5
    assert (values == kept).all(), "the matrix that is drawn from stays as it is"


def test_a_canvas_has_the_matrix_in_its_upper_left_corner() -> None:
    canvas = pad_to_canvas(np.ones((2, 3), np.float32), 4)
    assert canvas.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_synthetic_copies_are_as_long_and_as_fast_as_true_ones() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_segments(rng, 120.0, 120.0) for _ in range(3000)]
    segments = [segment for some in drawn for segment in some]
    lengths = np.array([segment.query_end - segment.query_start for segment in segments])
    speeds = np.array([segment.speed for segment in segments])
    assert np.median(lengths) == pytest.approx(9.8, abs=1.0)
    assert lengths.mean() == pytest.approx(12.1, abs=1.5)
    assert lengths.min() >= LENGTHS[0]
    assert speeds.min() >= 0.5
    assert speeds.max() <= 2.0
    assert np.mean(np.abs(speeds - 1) < 0.1) == pytest.approx(0.55, abs=0.06)
    assert np.mean([not some for some in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([segment.reversed for segment in segments]) == pytest.approx(0.15, abs=0.03)
    assert all(segment.query_end <= 120 + 1e-9 and segment.reference_end <= 120 + 1e-9 for segment in segments)


def test_synthetic_frames_are_alike_along_the_copy_and_less_beside_it() -> None:
    backgrounds = [np.random.default_rng(1).uniform(-0.5, -0.3, (30, 40)).astype(np.float32)]
    source = SyntheticMatrices(backgrounds)
    on_line, far = [], []
    for seed in range(150):
        matrix, segments = source.draw(np.random.default_rng(seed))
        query, reference = matrix.query_times.mean(axis=1), matrix.reference_times.mean(axis=1)
        for segment in segments:
            rows = np.flatnonzero((query > segment.query_start + 0.5) & (query < segment.query_end - 0.5))
            expected = np.array([segment.reference_at(second) for second in query[rows]])
            apart = np.abs(reference[None] - expected[:, None])
            on_line += matrix.values[rows, apart.argmin(axis=1)].tolist()
            far += matrix.values[rows][apart > 8].tolist()
    assert np.mean(on_line) - np.mean(far) > 0.4
    assert np.mean(on_line) < 0.7
    assert np.mean(far) < -0.2
    assert backgrounds[0].max() < -0.29, "the background that is drawn on stays as it is"


def test_examples_follow_from_seed_epoch_and_index_in_every_process() -> None:
    pairs = [pair_of("Q1", 0.9, COPY), pair_of("Q2", 0.8), pair_of("Q3", 0.1)]
    examples = AlignerExamples(MatrixSource.from_pairs(pairs, 0.5, 0.5), 8, 24, 7)
    again = pickle.loads(pickle.dumps(examples))
    for index in range(8):
        first, second = examples.example(1, index), again.example(1, index)
        assert first.keys() == {"matrix", "label", "inside"}
        for name in first:
            assert first[name].shape == (24, 24)
            assert (first[name] == second[name]).all()
        assert not first["label"][first["inside"] == 0].any()
    assert any((examples.example(0, n)["matrix"] != examples.example(1, n)["matrix"]).any() for n in range(8))


def test_pairs_are_labelled_by_whether_anything_is_copied_in_what_is_seen() -> None:
    true = PairExamples(
        MatrixSource.from_pairs([pair_of("Q1", 0.9, COPY), pair_of("Q2", 0.8)], 0.0, 1.0), 20, 64, 96, 0
    )
    false = PairExamples(
        MatrixSource.from_pairs([pair_of("Q1", 0.9, COPY), pair_of("Q2", 0.8)], 0.0, 0.0), 20, 64, 96, 0
    )
    assert [float(true.example(0, n)["label"]) for n in range(20)] == [1.0] * 20
    assert [float(false.example(0, n)["label"]) for n in range(20)] == [0.0] * 20
    assert true.example(0, 0)["matrix"].shape == (64, 64)


def test_of_false_pairs_those_that_the_search_liked_come_more_often() -> None:
    pairs = [pair_of("Q0", 0.9, COPY), *(pair_of(f"Q{n}", n / 10) for n in range(1, 9))]
    source = MatrixSource.from_pairs(pairs, 0.0, 0.0)
    rng = np.random.default_rng(0)
    drawn = [source.draw_pair(rng).score for _ in range(400)]
    assert np.mean(drawn) > np.mean([n / 10 for n in range(1, 9)]) + 0.08
    assert min(drawn) == 0.1
