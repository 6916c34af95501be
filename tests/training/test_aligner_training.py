from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from configs.training import AlignerTraining
from copytrace.alignment.heat_maps import HeatMapRules
from copytrace.cli import app
from copytrace.errors import ConfigError, CopytraceError
from copytrace.training.aligner import initial_network, train_aligner
from copytrace.training.aligner_labels import label_map
from copytrace.training.aligner_module import AlignerNetwork, cell_loss, line_loss
from copytrace.training.aligner_validation import AlignerValidation, heat_map
from copytrace.training.matrices import LabeledPair, read_labeled_pairs
from copytrace.training.matrix_sheet import matrix_sheet
from copytrace.training.training_result import read_result
from models.aligner_network import LightAligner, build_aligner_network
from models.configs import AlignerConfig
from models.network_files import load_aligner_network

pytestmark = pytest.mark.usefixtures("one_thread")

Run = tuple[Path, Path]
QUICK: dict[str, Any] = {"folds": 2, "examples_per_epoch": 24, "side": 24}
LOOP: dict[str, Any] = {
    **{"epochs": 3, "batch_size": 4, "workers": 0, "threads": 1, "device": "cpu"},
    **{"learning_rate": 0.004, "ema_decay": 0.5, "warmup_epochs": 0.3},
}


def settings_of(**changes: Any) -> AlignerTraining:
    return AlignerTraining.model_validate(QUICK | changes | {"loop": LOOP | changes.get("loop", {})})


class Listener:
    """Remembers what a training shows and tells, and ends it after an epoch, as a crash would."""

    def __init__(self, last: int = 99) -> None:
        self.last, self.epochs = last, list[int]()
        self.shown: dict[str, NDArray[np.uint8]] = {}

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        self.epochs.append(epoch)
        if epoch > self.last:
            raise CopytraceError("the power is gone")

    def picture(self, name: str, pixels: NDArray[np.uint8], epoch: int) -> None:
        self.shown[name] = pixels


@pytest.fixture(scope="module")
def candidates(video_run: Run) -> tuple[LabeledPair, ...]:
    return read_labeled_pairs([video_run]).pairs


@pytest.fixture(scope="module")
def trained(video_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Listener]:
    listener = Listener()
    return train_aligner([video_run], tmp_path_factory.mktemp("aligner"), settings_of(), listener), listener


def test_a_perfect_heat_map_costs_nothing_and_its_opposite_much() -> None:
    label = torch.eye(6)[None]
    inside = torch.ones_like(label)
    right = (label * 2 - 1) * 20
    assert cell_loss(right, label, inside, 3.0).item() < 1e-6
    assert line_loss(right, label, inside).item() < 1e-6
    assert cell_loss(-right, label, inside, 1.0).item() == pytest.approx(20.0)
    assert line_loss(-right, label, inside).item() == pytest.approx(1.0)


def test_a_missed_cell_of_a_line_costs_more_than_a_false_one() -> None:
    label, inside = torch.eye(6)[None], torch.ones(1, 6, 6)
    right = (label * 2 - 1) * 20
    missed, false = right.clone(), right.clone()
    missed[0, 2, 2], false[0, 2, 4] = -20.0, 20.0
    assert cell_loss(missed, label, inside, 3.0).item() == pytest.approx(3 * 20 / 36)
    assert cell_loss(false, label, inside, 3.0).item() == pytest.approx(20 / 36)


def test_what_lies_outside_the_matrix_costs_nothing() -> None:
    label, inside = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    inside[:, :2], label[0, 0, 0] = 1.0, 1.0
    logits = torch.where(inside > 0, (label * 2 - 1) * 20, torch.full((1, 4, 4), 20.0))
    assert cell_loss(logits, label, inside, 3.0).item() < 1e-6
    assert line_loss(logits, label, inside).item() < 1e-6


def test_a_batch_without_any_line_has_no_line_loss() -> None:
    assert line_loss(torch.randn(2, 4, 4), torch.zeros(2, 4, 4), torch.ones(2, 4, 4)).item() == 0.0


def test_a_heat_map_does_not_depend_on_which_video_is_the_query() -> None:
    torch.manual_seed(0)
    network = build_aligner_network().eval()
    values = np.random.default_rng(0).normal(size=(9, 14)).astype(np.float32)
    heat = heat_map(network, values)
    assert heat.shape == (9, 14)
    np.testing.assert_allclose(heat, heat_map(network, values.T).T, atol=1e-6)


class Similarity(LightAligner):
    """An aligner without anything learned: its heat is the similarity itself, or the opposite."""

    def __init__(self, sign: float) -> None:
        super().__init__(AlignerConfig())
        self.sign = sign

    def forward(self, values: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        return self.sign * (values - 0.5) * 20


def test_validation_finds_all_segments_in_clear_heat_maps_and_none_in_wrong_ones(
    candidates: tuple[LabeledPair, ...],
) -> None:
    validation = AlignerValidation.select(candidates, 100)
    assert len(validation.pairs) == len(candidates)
    right, wrong = validation.metrics(Similarity(1.0)), validation.metrics(Similarity(-1.0))
    assert right["segment_ap"] > 0.9
    assert right["recall"] > 0.9
    assert wrong["segment_ap"] < 0.3
    assert right["validation_cells"] < wrong["validation_cells"]


class PerfectlyTrained(AlignerValidation):
    """A validation of a network whose heat maps are the labels of the training."""

    def heats(self, network: AlignerNetwork) -> Iterator[NDArray[np.float32]]:
        times = ((pair.segments, pair.matrix.query_times, pair.matrix.reference_times) for pair in self.pairs)
        return (label_map(*each) for each in times)


def test_heat_maps_like_the_labels_of_the_training_give_the_true_segments(candidates: tuple[LabeledPair, ...]) -> None:
    found = PerfectlyTrained(candidates, HeatMapRules()).metrics(Similarity(1.0))
    assert found["segment_ap"] > 0.95
    assert found["pair_ap"] == 1.0


def test_of_many_pairs_all_true_ones_and_the_hardest_others_validate(candidates: tuple[LabeledPair, ...]) -> None:
    chosen = AlignerValidation.select(candidates, 14).pairs
    assert sum(pair.is_true for pair in chosen) == 10
    left = [pair.score for pair in candidates if pair not in chosen]
    assert min(pair.score for pair in chosen) >= max(left)


def test_true_pairs_that_the_search_missed_count_as_not_found(candidates: tuple[LabeledPair, ...]) -> None:
    true = next(pair for pair in candidates if pair.is_true)
    missed = LabeledPair(0, true.query, true.reference, -np.inf, true.matrix, true.segments)
    others = tuple(pair for pair in candidates if pair is not true)
    metrics = AlignerValidation((*others, missed), HeatMapRules()).metrics(Similarity(1.0))
    assert metrics["recall"] < AlignerValidation(candidates, HeatMapRules()).metrics(Similarity(1.0))["recall"] - 0.05


def test_a_sheet_shows_matrices_side_by_side_and_white_where_there_is_none() -> None:
    shown = matrix_sheet([(np.zeros((8, 4), np.float32), np.ones((8, 4), np.float32))])
    assert shown.dtype == np.uint8
    assert shown[:96, :48].max() == 0
    assert shown[:, 48:].min() == 255


def test_training_for_seconds_lowers_the_loss_and_leaves_a_network_with_its_figures(
    trained: tuple[Path, Listener],
) -> None:
    path, listener = trained
    assert path.name == "aligner.safetensors"
    assert load_aligner_network(path).config == AlignerConfig("light")
    losses = [json.loads(line)["loss"] for line in (path.parent / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert set(read_result(path.parent).metrics) == {"segment_ap", "recall", "pair_ap", "validation_cells"}
    assert listener.epochs == [1, 2, 3]
    assert set(listener.shown) == {"matrices", "heat maps"}


def test_a_training_that_died_goes_on_and_ends_with_the_same_weights(
    trained: tuple[Path, Listener], video_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(CopytraceError, match="the power is gone"):
        train_aligner([video_run], tmp_path, settings_of(), Listener(last=1))
    again = Listener()
    path = train_aligner([video_run], tmp_path, settings_of(), again)
    assert again.epochs == [2, 3]
    whole, resumed = (load_aligner_network(file).state_dict() for file in (trained[0], path))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_folder_of_another_training_is_refused(trained: tuple[Path, Listener], video_run: Run) -> None:
    with pytest.raises(ConfigError, match="another"):
        train_aligner([video_run], trained[0].parent, settings_of(synthetic_share=0.1))


def test_a_training_can_start_from_a_file(trained: tuple[Path, Listener]) -> None:
    network = initial_network(settings_of(start=str(trained[0])))
    kept = load_aligner_network(trained[0])
    assert torch.equal(network.state_dict()["head.weight"], kept.state_dict()["head.weight"])
    with pytest.raises(ConfigError, match="holds a light; set backbone to that"):
        initial_network(settings_of(start=str(trained[0]), backbone="hrnet_w18"))
    with pytest.raises(ConfigError, match="start: absent"):
        initial_network(settings_of(start="absent.safetensors"))


def test_the_command_trains_on_runs_and_takes_settings_among_them(video_run: Run, tmp_path: Path) -> None:
    words = [f"{name}={value}" for name, value in QUICK.items()]
    words += [f"loop.{name}={value}" for name, value in (LOOP | {"epochs": 1}).items()]
    arguments = ["train-aligner", *map(str, video_run), *words, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    figure = read_result(tmp_path / "out").metrics["segment_ap"]
    assert f"segment_ap {figure:.4f} after epoch 1, in 0 minutes" in result.stdout
    assert f"copytrace match-videos QUERIES REFERENCES --out RUN alignment.model={tmp_path / 'out'}" in result.stdout
