from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from configs.training import LoopSettings
from copytrace.errors import ConfigError, CopytraceError, InputError
from copytrace.storage import remove_tree, resolve_path
from copytrace.training.log import read_history
from copytrace.training.loop import FitResult, TrainingContext, TrainingModule, fit

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
State = dict[str, Tensor]


class Points:
    """Points of a linear function; asked for the example number `fails_at`, they raise once."""

    def __init__(self, count: int = 16, fails_at: int | None = None) -> None:
        self.count, self.fails_at, self.asked = count, fails_at, 0

    def __len__(self) -> int:
        return self.count

    def example(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        self.asked += 1
        if self.asked == self.fails_at:
            raise InputError("the photos are gone")
        x = np.random.default_rng((epoch, index)).standard_normal(3).astype(np.float32)
        return {"x": x, "y": x @ WEIGHTS}


class Regression(TrainingModule[nn.Sequential]):
    """A small network with dropout, so that its training depends on torch's random numbers."""

    def __init__(self, *, dropout: float = 0.1, pretrained: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.pretrained = pretrained
        self.states: list[State] = []

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return list(self.network[0].parameters()) if self.pretrained else []

    def start_step(self, epoch: int, step: int) -> None:
        self.states.append(state_of(self.network))

    def forward(self, batch: State) -> State:
        return {"loss": functional.mse_loss(self.network(batch["x"])[:, 0], batch["y"])}


class Broken(Regression):
    """Its loss is no number from the third step on."""

    def forward(self, batch: State) -> State:
        return {"loss": super().forward(batch)["loss"] * (1.0 if len(self.states) < 3 else torch.inf)}


class Scarce(Regression):
    """As on a device whose memory holds only so many examples."""

    def __init__(self, room: int) -> None:
        super().__init__(dropout=0.0)
        self.room, self.sizes = room, list[int]()

    def forward(self, batch: State) -> State:
        self.sizes.append(len(batch["x"]))
        if self.sizes[-1] > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().forward(batch)


@dataclass
class Scores:
    """Gives these scores, one after another, and keeps the networks that it was shown; None raises."""

    scores: list[float | None]

    def __post_init__(self) -> None:
        self.seen: list[State] = []

    def __call__(self, network: nn.Module) -> dict[str, float]:
        score = self.scores[len(self.seen)]
        self.seen.append(state_of(network))
        if score is None:
            raise InputError("the disk is full")
        return {"score": score}


class Counted:
    """A listener that counts steps."""

    def __init__(self) -> None:
        self.total = self.done = 0

    @contextmanager
    def step(self, name: str, total: int, unit: str) -> Iterator[Counted]:
        self.total, self.done = total, 0
        yield self

    def advance(self, count: int = 1) -> None:
        self.done += count


def state_of(network: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def settings_of(**changes: Any) -> LoopSettings:
    values = {"epochs": 3, "batch_size": 4, "workers": 0, "learning_rate": 0.02, "ema_decay": 0.5, "warmup_epochs": 0.5}
    return LoopSettings.model_validate(values | changes)


def error_of(network: nn.Module) -> dict[str, float]:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32))
    return {"score": -functional.mse_loss(network(x)[:, 0], x @ torch.from_numpy(WEIGHTS)).item()}


def trained(
    out: Path,
    settings: LoopSettings | None = None,
    *,
    trainee: Regression | None = None,
    examples: Points | None = None,
    validate: Callable[[nn.Sequential], dict[str, float]] = error_of,
    fingerprint: str = "run",
    progress: Counted | None = None,
) -> FitResult[nn.Sequential]:
    return fit(
        trainee or Regression(),
        examples or Points(),
        validate,
        settings or settings_of(),
        TrainingContext(out, fingerprint, CPU, progress=progress),
        score="score",
    )


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_network_learns(tmp_path: Path) -> None:
    settings = settings_of(epochs=20, learning_rate=0.05)
    result = trained(tmp_path, settings, trainee=Regression(dropout=0.0), examples=Points(64))
    losses = [line["loss"] for line in read_history(tmp_path / "history.jsonl")]
    assert len(losses) == 20
    assert losses[-1] < 0.1 * losses[0]
    assert result.metrics["score"] > 0.1 * error_of(Regression().network)["score"]
    assert not result.network.training
    assert result.seconds > 0


@pytest.mark.parametrize("fails_at", [1, 7, 17, 30, 48])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_that_broke_off_ends_with_the_weights_of_one_that_did_not(
    fails_at: int, accumulate: int, tmp_path: Path
) -> None:
    settings = settings_of(checkpoint_minutes=0, accumulate=accumulate)
    expected = trained(tmp_path / "whole", settings)
    with pytest.raises(InputError, match="the photos are gone"):
        trained(tmp_path / "broken", settings, examples=Points(fails_at=fails_at))
    rest = Points()
    result = trained(tmp_path / "broken", settings, examples=rest)
    assert_same(state_of(result.network), state_of(expected.network))
    assert (result.epoch, result.metrics) == (expected.epoch, expected.metrics)
    assert rest.asked <= 48 - 4 * ((fails_at - 1) // (4 * accumulate) * accumulate)
    kept = ("epoch", "loss", "score")
    lines = [read_history(tmp_path / name / "history.jsonl") for name in ("whole", "broken")]
    assert [[line[name] for name in kept] for line in lines[0]] == [[line[name] for name in kept] for line in lines[1]]


def test_a_run_that_broke_off_goes_on_from_a_store(tmp_path: Path) -> None:
    settings, out = settings_of(checkpoint_minutes=0), resolve_path("memory://loop/run")
    expected = trained(tmp_path, settings)
    with pytest.raises(InputError, match="the photos are gone"):
        trained(out, settings, examples=Points(fails_at=30))
    rest = Points()
    result = trained(out, settings, examples=rest)
    assert rest.asked <= 48 - 28
    assert_same(state_of(result.network), state_of(expected.network))
    assert [line["epoch"] for line in read_history(out / "history.jsonl")] == [1, 2, 3]
    remove_tree(out)


@pytest.mark.parametrize("minutes", [0, 5])
def test_a_run_whose_validation_failed_goes_on_from_its_last_checkpoint(minutes: int, tmp_path: Path) -> None:
    settings = settings_of(checkpoint_minutes=minutes)
    expected = trained(tmp_path / "whole", settings, validate=Scores([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="the disk is full"):
        trained(tmp_path / "broken", settings, validate=Scores([0.1, None]))
    result = trained(tmp_path / "broken", settings, validate=Scores([0.2, 0.3]))
    assert_same(state_of(result.network), state_of(expected.network))
    assert [line["epoch"] for line in read_history(tmp_path / "broken" / "history.jsonl")] == [1, 2, 3]


def test_a_finished_run_trains_nothing_and_returns_the_same(tmp_path: Path) -> None:
    first = trained(tmp_path)
    history = (tmp_path / "history.jsonl").read_bytes()
    examples, progress = Points(), Counted()
    second = trained(tmp_path, examples=examples, progress=progress)
    assert examples.asked == 0
    assert progress.done == progress.total == 12
    assert_same(state_of(second.network), state_of(first.network))
    assert (second.epoch, second.metrics, second.seconds) == (first.epoch, first.metrics, first.seconds)
    assert (tmp_path / "history.jsonl").read_bytes() == history


def test_a_run_with_another_fingerprint_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(ConfigError, match="belongs to a run with other settings or data; give another folder"):
        trained(tmp_path, fingerprint="other")


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    trained(tmp_path)
    other = Regression()
    other.network.append(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="another network than this version trains; remove it") as caught:
        trained(tmp_path, trainee=other)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_ends_the_run_in_one_line(tmp_path: Path) -> None:
    settings = settings_of(checkpoint_minutes=0)
    with pytest.raises(
        CopytraceError, match=r"the loss became inf in step 3 of epoch 1; .*loop\.learning_rate"
    ) as told:
        trained(tmp_path, settings, trainee=Broken())
    assert "\n" not in str(told.value)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["position"]["step"] == 2
    assert all(value.isfinite().all() for value in state["module"].values())


def test_accumulated_batches_move_the_weights_as_one_large_batch_does(tmp_path: Path) -> None:
    results = [
        trained(tmp_path / str(size), settings_of(batch_size=size, accumulate=steps), trainee=Regression(dropout=0.0))
        for size, steps in ((4, 2), (8, 1))
    ]
    states = [state_of(result.network) for result in results]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5)


def test_a_batch_too_large_for_the_memory_goes_on_in_parts_and_teaches_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(tmp_path / "whole", settings_of(batch_size=8), trainee=Regression(dropout=0.0))
    scarce = Scarce(room=2)
    with caplog.at_level("WARNING", "copytrace"):
        parts = trained(tmp_path / "parts", settings_of(batch_size=8), trainee=scarce)
    assert scarce.sizes == [8, 4] + [2] * (3 * 8)
    assert "continuing with batches in parts of 2" in caplog.text
    for name, value in state_of(parts.network).items():
        torch.testing.assert_close(value, state_of(whole.network)[name])
    losses = [[line["loss"] for line in read_history(tmp_path / run / "history.jsonl")] for run in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1])


def test_two_examples_that_do_not_fit_are_an_error_with_the_cure(tmp_path: Path) -> None:
    cure = r"for a batch of 2; .* loop.batch_size=4 loop.accumulate=2"
    with pytest.raises(CopytraceError, match=cure):
        trained(tmp_path, settings_of(batch_size=8), trainee=Scarce(room=1))


def test_without_averaging_the_network_of_the_last_step_is_kept(tmp_path: Path) -> None:
    trainee = Regression()
    result = trained(tmp_path, settings_of(ema_decay=0), trainee=trainee, validate=Scores([0.1, 0.2, 0.3]))
    assert_same(state_of(result.network), state_of(trainee.network))


def test_the_averaged_weights_are_an_exponential_mean_of_those_after_each_step(tmp_path: Path) -> None:
    trainee = Regression()
    result = trained(tmp_path, settings_of(epochs=1, ema_decay=0.75), trainee=trainee)
    _, *after = [*trainee.states, state_of(trainee.network)]
    expected = after[0]
    for state in after[1:]:
        expected = {name: 0.75 * expected[name] + 0.25 * state[name] for name in state}
    for name, value in state_of(result.network).items():
        torch.testing.assert_close(value, expected[name])


def test_the_best_epoch_is_kept_rather_than_the_last(tmp_path: Path) -> None:
    scores = Scores([0.1, 0.9, 0.3])
    result = trained(tmp_path, validate=scores)
    assert (result.epoch, result.metrics) == (2, {"score": 0.9})
    assert_same(state_of(result.network), scores.seen[1])
    with pytest.raises(AssertionError):
        assert_same(scores.seen[1], scores.seen[2])


def test_only_some_epochs_validate_if_so_set_and_the_last_always(tmp_path: Path) -> None:
    trained(tmp_path, settings_of(epochs=5, validate_every=2), validate=Scores([0.1, 0.2, 0.3]))
    lines = read_history(tmp_path / "history.jsonl")
    assert [line["epoch"] for line in lines if "score" in line] == [2, 4, 5]


def test_scores_that_are_numpy_numbers_do_not_spoil_the_checkpoint(tmp_path: Path) -> None:
    scores = Scores([np.float64(0.1), np.float64(0.2), np.float64(0.3)])
    trained(tmp_path, validate=scores)
    assert trained(tmp_path).metrics == {"score": 0.3}


def test_pretrained_parameters_learn_at_a_share_of_the_rate(tmp_path: Path) -> None:
    trainee = Regression(pretrained=True)
    before = state_of(trainee.network)
    trained(tmp_path, settings_of(backbone_rate=0.0), trainee=trainee)
    after = state_of(trainee.network)
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_as_well_and_resumes(precision: str, tmp_path: Path) -> None:
    settings = settings_of(epochs=10, learning_rate=0.05, precision=precision, checkpoint_minutes=0)
    with pytest.raises(InputError, match="the photos are gone"):
        trained(tmp_path, settings, examples=Points(64, fails_at=100), trainee=Regression(dropout=0.0))
    trained(tmp_path, settings, examples=Points(64), trainee=Regression(dropout=0.0))
    losses = [line["loss"] for line in read_history(tmp_path / "history.jsonl")]
    assert losses[-1] < 0.5 * losses[0]


def test_the_history_has_the_figures_of_each_epoch(tmp_path: Path) -> None:
    trained(tmp_path)
    (first, *_) = (json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines())
    assert set(first) == {"epoch", "loss", "score", "images_per_second", "share_of_time_waiting_for_data"}
    assert first["images_per_second"] > 0
    assert 0 <= first["share_of_time_waiting_for_data"] <= 1
