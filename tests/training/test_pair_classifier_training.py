from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.training import PairTraining
from copytrace.errors import ConfigError, CopytraceError
from copytrace.training.log import SilentLog
from copytrace.training.matrices import fold_number, read_labeled_pairs
from copytrace.training.matrix_examples import MatrixSource, PairExamples
from copytrace.training.pair_classifier import held_out_probabilities, initial_network, train_pair_classifier
from copytrace.training.pair_validation import pair_metrics, pair_probabilities, recall_threshold, safe_threshold
from copytrace.training.training_result import read_result
from models.configs import PAIR_CANVAS, read_header, read_threshold
from models.network_files import load_pair_classifier
from models.pair_network import build_pair_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

Run = tuple[Path, Path]
LOOP: dict[str, Any] = {
    **{"epochs": 3, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu"},
    **{"learning_rate": 0.002, "ema_decay": 0.5, "warmup_epochs": 0.3},
}


def settings_of(**changes: Any) -> PairTraining:
    quick = {"folds": 2, "examples_per_epoch": 24, "synthetic_share": 0.0, "true_share": 0.5, "side": 32}
    return PairTraining.model_validate(quick | changes | {"loop": LOOP | changes.get("loop", {})})


class Dying(SilentLog):
    """Ends a training in its second epoch, as a crash would."""

    def metrics(self, values: Any, epoch: int) -> None:
        if epoch == 2:
            raise CopytraceError("the power is gone")


@pytest.fixture(scope="module")
def folds(video_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A classifier for each of two folds, trained by one call."""
    out = tmp_path_factory.mktemp("folds")
    first = train_pair_classifier([video_run], out, settings_of(cross_validated=True))
    return [first, out / "folds" / "1" / first.name]


def test_the_threshold_is_the_greatest_that_keeps_the_share_of_true_pairs() -> None:
    chances = np.array([0.9, 0.2, 0.6, 0.4, 0.8], np.float32)
    labels = np.array([True, False, True, True, False])
    assert recall_threshold(chances, labels, 1.0) == pytest.approx(0.4)
    assert recall_threshold(chances, labels, 0.66) == pytest.approx(0.6)


def test_of_a_hundred_true_pairs_one_may_go() -> None:
    chances = np.linspace(0.01, 1.0, 100).astype(np.float32)
    assert recall_threshold(chances, np.ones(100, bool), 0.99) == pytest.approx(0.02)


def test_the_threshold_is_a_little_below_what_the_faintest_true_pairs_reach() -> None:
    chances, labels = np.array([0.9, 0.5, 0.1], np.float32), np.array([True, True, False])
    assert safe_threshold(chances, labels) == pytest.approx(0.8 / 1.8)  # odds of 1 to 1, and 0.8 of them
    assert safe_threshold(np.ones(1, np.float32), np.ones(1, np.bool_)) <= 1.0


def test_figures_of_six_pairs_worked_out_by_hand() -> None:
    chances = np.array([0.8, 0.5, 0.9, 0.2, 0.2, 0.1], np.float32)
    labels = np.array([True, True, False, False, False, False])
    figures = pair_metrics(chances, labels)
    assert figures["dropped"] == pytest.approx(3 / 4)
    assert figures["dropped_of_all"] == pytest.approx(3 / 6)
    assert figures["kept"] == 1.0
    assert figures["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    true, false = (0.8 * 0.5) ** (1 / 2), (0.1 * 0.8 * 0.8 * 0.9) ** (1 / 4)
    assert figures["likelihood"] == pytest.approx((true * false) ** 0.5, abs=1e-6)


def test_a_probability_does_not_depend_on_which_video_is_the_query(video_run: Run) -> None:
    torch.manual_seed(0)
    network = build_pair_classifier().eval()
    pairs = read_labeled_pairs([video_run]).pairs[:3]
    found = pair_probabilities(network, pairs)
    assert found.shape == (3,)
    turned = [type(pair)(0, pair.query, pair.reference, 0.0, pair.matrix.transpose(), ()) for pair in pairs]
    np.testing.assert_allclose(found, pair_probabilities(network, turned), atol=1e-6)


def test_training_for_seconds_lowers_the_loss_and_leaves_a_classifier_with_its_threshold(
    folds: list[Path], video_run: Run
) -> None:
    path = folds[0]
    assert path.name == "pair_classifier.safetensors"
    losses = [json.loads(line)["loss"] for line in (path.parent / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    notes = read_header(path, "pair-classifier")["notes"]
    assert (notes["fold"], notes["folds"], notes["seed"]) == (0, 2, 0)
    figures = {"likelihood", "dropped", "dropped_of_all", "kept", "average_precision"}
    assert set(notes["metrics"]) == figures | {f"out_of_fold_{name}" for name in figures}
    assert read_result(path.parent).metrics == notes["metrics"]


def test_the_threshold_keeps_the_true_pairs_of_all_folds_by_the_weights_in_their_files(
    folds: list[Path], video_run: Run
) -> None:
    pairs = read_labeled_pairs([video_run]).pairs
    chances = held_out_probabilities({fold: load_pair_classifier(path) for fold, path in enumerate(folds)}, pairs, 2, 0)
    labels = np.array([pair.is_true for pair in pairs])
    threshold = safe_threshold(chances, labels)
    assert [read_threshold(path) for path in folds] == pytest.approx([threshold, threshold], abs=1e-6)
    metrics = read_header(folds[0], "pair-classifier")["notes"]["metrics"]
    assert metrics["out_of_fold_dropped"] == pytest.approx(float((chances[~labels] < threshold).mean()))
    assert metrics["out_of_fold_kept"] == 1.0


def test_without_the_other_folds_the_threshold_keeps_the_true_pairs_of_one(
    folds: list[Path], video_run: Run, tmp_path: Path
) -> None:
    path = train_pair_classifier([video_run], tmp_path, settings_of())
    assert not (tmp_path / "folds").exists()
    alike = zip(*(load_pair_classifier(file).state_dict().values() for file in (path, folds[0])), strict=True)
    assert all(torch.equal(one, other) for one, other in alike)
    _, kept_out = read_labeled_pairs([video_run]).split(0, 2, 0)
    chances = pair_probabilities(load_pair_classifier(path), kept_out)
    expected = safe_threshold(chances, np.array([pair.is_true for pair in kept_out]))
    assert read_threshold(path) == pytest.approx(expected, abs=1e-6)


def test_the_first_runs_alone_may_choose_the_threshold_and_changing_that_trains_nothing(
    video_run: Run, tmp_path: Path
) -> None:
    run, truth = video_run
    header, *lines = truth.read_text(encoding="utf-8").splitlines()
    wrong = [line.replace(f"R{number % 5},", f"R{(number + 2) % 5},") for number, line in enumerate(lines)]
    (tmp_path / "wrong.csv").write_text("\n".join([header, *wrong]) + "\n", encoding="utf-8")
    runs = [video_run, (run, tmp_path / "wrong.csv")]  # of the second, nobody can see what is said to be copied
    path = train_pair_classifier(runs, tmp_path / "out", settings_of())
    of_all, learned = read_threshold(path), (path.parent / "checkpoint.pt").stat().st_mtime_ns
    train_pair_classifier(runs, tmp_path / "out", settings_of(threshold_runs=1))
    assert (path.parent / "checkpoint.pt").stat().st_mtime_ns == learned
    _, kept_out = read_labeled_pairs(runs).split(0, 2, 0)
    for threshold, deciding in ((of_all, kept_out), (read_threshold(path), [p for p in kept_out if p.run == 0])):
        chances = pair_probabilities(load_pair_classifier(path), deciding)
        expected = safe_threshold(chances, np.array([pair.is_true for pair in deciding]))
        assert threshold == pytest.approx(expected, abs=1e-6)
    assert of_all <= read_threshold(path)  # the faintest of more true pairs


def test_the_published_architecture_learns_too(video_run: Run, tmp_path: Path) -> None:
    quick = settings_of(architecture="test_efficientnet", examples_per_epoch=8, loop={"epochs": 1})
    path = train_pair_classifier([video_run], tmp_path, quick)
    assert 0 < read_threshold(path) < 1
    assert load_pair_classifier(path).config.canvas == PAIR_CANVAS


def test_no_example_shows_less_than_two_copied_frames_of_either_video(video_run: Run) -> None:
    source = MatrixSource.from_pairs(read_labeled_pairs([video_run]).pairs, synthetic_share=0.0, true_share=1.0)
    examples = PairExamples(source, 200, side=12, drawn=12, seed=0)
    for index in range(len(examples)):
        parts = examples.example(0, index)
        hot = parts["cells"] > 0.5
        assert parts["label"] == hot.any()
        if hot.any():
            assert min(hot.any(axis=0).sum(), hot.any(axis=1).sum()) >= 2
        assert not (hot & (parts["inside"] == 0)).any()


def test_a_training_that_died_goes_on_and_ends_with_the_same_weights(
    folds: list[Path], video_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(CopytraceError, match="the power is gone"):
        train_pair_classifier([video_run], tmp_path, settings_of(), Dying())
    path = train_pair_classifier([video_run], tmp_path, settings_of())
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3
    whole, resumed = (load_pair_classifier(file).state_dict() for file in (folds[0], path))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_every_pair_is_scored_by_the_classifier_that_has_not_learned_from_its_query(
    folds: list[Path], video_run: Run
) -> None:
    pairs = read_labeled_pairs([video_run]).pairs
    networks = {fold: load_pair_classifier(path) for fold, path in enumerate(folds)}
    found = list(zip(pairs, held_out_probabilities(networks, pairs, 2, 0).tolist(), strict=True))
    for fold, path in enumerate(folds):
        mine = [(pair, chance) for pair, chance in found if fold_number(pair.query, 2, 0) == fold]
        expected = pair_probabilities(load_pair_classifier(path), [pair for pair, _ in mine])
        assert [chance for _, chance in mine] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_start_that_does_not_fit_is_refused(folds: list[Path]) -> None:
    with pytest.raises(ConfigError, match="timm builds no swinish"):
        initial_network(settings_of(architecture="swinish"))
    with pytest.raises(ConfigError, match="holds a light; set architecture to that"):
        initial_network(settings_of(start=str(folds[0]), architecture="test_efficientnet"))
    with pytest.raises(ConfigError, match="start: absent"):
        initial_network(settings_of(start="absent.safetensors"))
    started = initial_network(settings_of(start=str(folds[0])))
    kept = load_pair_classifier(folds[0]).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in started.state_dict().items())
