from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.training import DescriptorTraining
from copytrace.training.log import append_history, read_history
from copytrace.training.training_result import TrainingResult, read_result, write_result


@pytest.fixture
def settings() -> DescriptorTraining:
    return DescriptorTraining(dimensions=64, start="random")


@pytest.fixture
def outcome(settings: DescriptorTraining) -> TrainingResult:
    return TrainingResult(
        title="Copytrace descriptor",
        metrics={"micro_ap": 0.71234, "top1": 0.9},
        score="micro_ap",
        best_epoch=7,
        images=12_345,
        validation_images=500,
        dataset_digest="0123456789abcdef",
        validation_digest="fedcba9876543210",
        seconds=5400.0,
        device="cpu",
        settings=settings.model_dump(mode="json"),
    )


def test_what_was_written_is_read(tmp_path: Path, outcome: TrainingResult, settings: DescriptorTraining) -> None:
    assert write_result(tmp_path, outcome, settings) == tmp_path / "result.json"
    assert read_result(tmp_path) == outcome
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == {"micro_ap": 0.71234, "top1": 0.9}


def test_the_card_says_data_training_settings_and_figures(
    tmp_path: Path, outcome: TrainingResult, settings: DescriptorTraining
) -> None:
    write_result(tmp_path, outcome, settings)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("# Copytrace descriptor\n")
    for said in (
        "12,345 photos (digest `0123456789abcdef`)",
        "500 others",
        "1.50 hours on cpu",
        "epoch 7, the best by",
    ):
        assert said in card
    assert '`{"start": "random", "dimensions": 64}`' in card
    assert "| micro ap | 0.7123 |\n| top1 | 0.9000 |" in card


def test_the_facts_leave_out_what_the_file_says_elsewhere(outcome: TrainingResult) -> None:
    facts = outcome.facts()
    assert facts["best_epoch"] == 7
    assert not {"settings", "title"} & facts.keys()
    json.dumps(facts)


def test_a_history_grows_by_epochs(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []
    append_history(path, {"loss": 1.23456789}, 1)
    append_history(path, {"loss": 1.0, "score": 0.5}, 2)
    assert read_history(path) == [{"epoch": 1, "loss": 1.234568}, {"epoch": 2, "loss": 1.0, "score": 0.5}]
    assert len(path.read_text().splitlines()) == 2


def test_an_epoch_that_is_done_again_takes_back_its_line_and_the_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for epoch in (1, 2, 3):
        append_history(path, {"loss": float(epoch)}, epoch)
    append_history(path, {"loss": 9.0}, 2)
    assert read_history(path) == [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 9.0}]


def test_a_history_that_cannot_be_written_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_history(path, {"loss": 1.0}, 1)
    with pytest.raises(TypeError):
        append_history(path, {"loss": None}, 2)  # type: ignore[dict-item]
    assert read_history(path) == [{"epoch": 1, "loss": 1.0}]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
