from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from configs.training import LoopSettings, OverlayTraining, PhotoSettings
from copytrace.errors import ConfigError
from copytrace.overlays.boxes import Box
from copytrace.training.overlay import initial_network, train_overlay_detector
from copytrace.training.overlay_module import (
    center_logits,
    first_stage_losses,
    heat_spots,
    pairwise_iou,
    place_loss,
    trust_loss,
)
from copytrace.training.overlay_validation import (
    OverlayValidation,
    detection_metrics,
    match_boxes,
    picture_sheet,
    precision_threshold,
)
from copytrace.training.photos import split_photos
from models.network_files import load_overlay
from models.overlay_network import ACROSS, Centers, reach

Pixels = NDArray[np.uint8]
HALF = torch.tensor([[[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.0, 0.0]]])  # one true box, and a row that is none


class Pictures:
    """Remembers what a training shows and tells."""

    def __init__(self) -> None:
        self.shown: dict[str, Pixels] = {}
        self.epochs: list[int] = []

    def metrics(self, values: Mapping[str, float], epoch: int) -> None:
        self.epochs.append(epoch)

    def picture(self, name: str, pixels: Pixels, epoch: int) -> None:
        self.shown[name] = pixels


def settings_of(**changes: object) -> OverlayTraining:
    values = {
        "architecture": "test_efficientnet",
        "start": "random",
        "input_size": 64,
        "detected_size": 64,
        "examples_per_epoch": 8,
        "validation_composites": 8,
        "photos": PhotoSettings(validation_share=0.5, long_side=128),
        "loop": LoopSettings(epochs=2, batch_size=4, workers=0, threads=1),
    }
    return OverlayTraining.model_validate(values | changes)


@pytest.fixture
def source(
    tmp_path: Path, photos: dict[str, Pixels], write_photos: Callable[[Path, Mapping[str, Pixels]], Path]
) -> str:
    pictures = {f"{name}{turn}": np.rot90(photo, turn) for name, photo in photos.items() for turn in range(3)}
    return str(write_photos(tmp_path / "photos", pictures))


def test_boxes_are_compared_with_those_of_their_own_picture_and_empty_ones_with_none() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]], [[0.5, 0.5, 1.0, 1.0]]])
    truth = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])
    assert pairwise_iou(boxes, truth).tolist() == [[[0.5, 0.0]], [[0.0, 1.0]]]
    assert pairwise_iou(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)).item() == 0.0


def test_a_spot_is_highest_in_the_cell_of_the_boxs_centre() -> None:
    box = torch.tensor([[[0.1, 0.2, 0.4, 0.9]]])  # centre at 0.25, 0.55
    spot = heat_spots(box, 10, 8)[0, 0]
    assert spot.max() == 1.0
    assert divmod(int(spot.argmax()), 8) == (5, 2)


def test_rows_of_zeros_make_no_spot() -> None:
    assert heat_spots(HALF, 8, 8)[0, 1].abs().sum() == 0


def test_a_perfect_first_stage_loses_nothing() -> None:
    logits = torch.full((1, 8, 8), -30.0)
    logits[0, 4, 4] = 30.0
    heat, boxes = first_stage_losses(Centers(logits, HALF[:, :1, None].expand(-1, 8, 8, -1)), HALF)
    assert heat.item() == pytest.approx(0.0, abs=1e-6)
    assert boxes.item() == pytest.approx(0.0, abs=1e-5)  # some tens of roundings of numbers about 1


def test_heat_far_from_a_centre_costs_more_than_heat_beside_it() -> None:
    def cost(row: int) -> float:
        logits = torch.full((1, 16, 16), -30.0)
        logits[0, 8, 8], logits[0, row, 8] = 30.0, 1.0
        return float(first_stage_losses(Centers(logits, torch.zeros(1, 16, 16, 4)), HALF)[0])

    assert cost(2) > 2 * cost(9) > 0


def test_logits_are_read_at_the_centre_of_a_box() -> None:
    logits = torch.arange(64.0).view(1, 8, 8)
    assert center_logits(logits, HALF[:, :1]).tolist() == [[4 * 8 + 4]]


def test_a_side_is_placed_where_it_is() -> None:
    proposed = HALF[:, :1].clone()
    proposed[..., 0] -= reach(proposed)[..., 0] / 2
    right = torch.full((1, 1, 4, ACROSS), -30.0)
    inwards = ((HALF[:, :1] - proposed) / reach(proposed))[0, 0]
    at = (inwards[0].item() + 1) / 2 * (ACROSS - 1)
    right[..., 0, round(at - 0.5)], right[..., 0, round(at - 0.5) + 1] = np.log(1 - at % 1), np.log(at % 1)
    right[..., 1:, (ACROSS - 1) // 2] = 30.0
    wrong = right.roll(3, dims=-1)
    assert place_loss(right, proposed, HALF).item() < 0.2
    assert place_loss(wrong, proposed, HALF).item() > 5


def test_boxes_that_miss_the_truth_place_nothing() -> None:
    elsewhere = torch.tensor([[[0.0, 0.0, 0.1, 0.1]]])
    assert place_loss(torch.randn(1, 1, 4, ACROSS), elsewhere, HALF).item() == 0.0


def test_trust_in_a_right_box_costs_nothing_and_in_a_wrong_one_much() -> None:
    sure = torch.full((1, 1), 20.0)
    assert trust_loss(sure, HALF[:, :1], HALF).item() < 1e-6
    assert trust_loss(sure, torch.tensor([[[0.0, 0.0, 0.2, 0.2]]]), HALF).item() == pytest.approx(20.0)


def test_in_pictures_without_a_paste_no_box_is_to_be_trusted() -> None:
    assert trust_loss(torch.full((1, 1), 20.0), HALF[:, :1], torch.zeros(1, 4, 4)).item() == pytest.approx(20.0)


def test_a_true_box_is_found_once() -> None:
    truth = np.array([[0.0, 0.0, 0.5, 0.5]], np.float32)
    boxes = [Box(0, 0, 0.5, 0.5, 0.9), Box(0, 0, 0.5, 0.45, 0.8)]
    correct, confidence = match_boxes([boxes], [truth], 0.5)
    assert correct.tolist() == [True, False]
    assert confidence.tolist() == [0.9, 0.8]


def test_metrics_of_three_pictures_worked_out_by_hand() -> None:
    truths = [
        np.array([[0.0, 0.0, 0.5, 0.5]], np.float32),
        np.array([[0.5, 0.5, 1.0, 1.0]], np.float32),
        np.zeros((0, 4)),
    ]
    # IoU 1; IoU 0.6 (0.3 of 0.5 wide); a box in a picture that has none, and one that nobody believes.
    found = [
        [Box(0, 0, 0.5, 0.5, 0.9)],
        [Box(0.5, 0.5, 0.8, 1.0, 0.7)],
        [Box(0, 0, 0.5, 0.5, 0.6), Box(0.5, 0, 1, 1, 0.1)],
    ]
    metrics = detection_metrics(found, truths)
    assert metrics["ap50"] == pytest.approx(1.0)
    assert (metrics["recall50"], metrics["precision50"]) == (1.0, pytest.approx(2 / 3))
    assert (metrics["recall70"], metrics["precision70"]) == (0.5, pytest.approx(1 / 3))


def test_nothing_found_is_no_error() -> None:
    metrics = detection_metrics([[]], [np.array([[0.0, 0.0, 0.5, 0.5]], np.float32)])
    assert metrics == {"ap50": 0.0, "recall50": 0.0, "precision50": 1.0, "recall70": 0.0, "precision70": 1.0}


def test_boxes_are_trusted_from_the_lowest_confidence_that_keeps_the_precision() -> None:
    correct = np.array([True, True, False, True, False])
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert precision_threshold(correct, confidence, 0.75) == 0.6
    assert precision_threshold(correct, confidence, 0.9) == 0.8


def test_a_sheet_shows_every_picture_with_its_boxes() -> None:
    pictures = np.zeros((3, 20, 20, 3), np.uint8)
    shown = picture_sheet(pictures, [np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)] * 3, columns=2)
    assert shown.shape == (48, 48, 3)
    assert (shown[2 + 5, 2 + 5 : 2 + 15] == (40, 220, 60)).all()


def test_training_leaves_a_network_its_figures_and_pictures(source: str, tmp_path: Path) -> None:
    log = Pictures()
    path = train_overlay_detector(source, tmp_path / "run", settings_of(), log)
    assert path == tmp_path / "run" / "overlay.safetensors"
    network = load_overlay(path)
    assert network.config.architecture == "test_efficientnet"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["metrics"]) == {"ap50", "recall50", "precision50", "recall70", "precision70"}
    assert log.epochs == [1, 2]
    assert set(log.shown) == {"composites", "mistakes"}

    again = settings_of(start=str(path), input_size=96, loop=LoopSettings(epochs=1, batch_size=4, workers=0))
    started = initial_network(again)
    assert started.config.input_size == 96
    torch.testing.assert_close(started.centre.weight, network.centre.weight)
    assert started.confidence_shift.item() == 0.0


def test_a_validation_set_is_the_same_for_every_input_size(source: str) -> None:
    kept_out = split_photos(source, PhotoSettings(validation_share=0.5)).validation
    sets = [OverlayValidation.create(kept_out, 4, input_size=size, long_side=128, share=0.7) for size in (64, 96)]
    assert sets[0].digest == sets[1].digest
    assert sets[0].pictures.shape == (4, 64, 64, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "imagenet"}, "no ImageNet weights of test_efficientnet are packaged"),
        ({"start": "absent.safetensors"}, r"start: absent\.safetensors is not a whole safetensors file"),
        ({"architecture": "test_vit"}, "test_vit gives no feature maps"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        initial_network(settings_of(**changes))


def test_the_imagenet_start_has_the_packaged_weights() -> None:
    network = initial_network(settings_of(architecture="tf_efficientnet_lite0", start="imagenet"))
    assert network.frozen_statistics
    assert dict(network.backbone.named_buffers())["bn1.running_var"].mean() != 1.0
