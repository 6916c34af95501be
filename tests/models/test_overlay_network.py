from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.configs import ModelFileError, OverlayConfig, digest_of_network, read_overlay_config
from models.export import OVERLAY_OUTPUTS
from models.network_files import load_overlay, save_network, save_overlay
from models.overlay_network import (
    ACROSS,
    PROPOSED,
    Centers,
    OverlayNetwork,
    band_points,
    build_overlay,
    reach,
    sample_maps,
    top_peaks,
)

SMALL = OverlayConfig("test_efficientnet", input_size=64, width=16)


@pytest.fixture(scope="module")
def network() -> OverlayNetwork:
    torch.manual_seed(0)
    return build_overlay(SMALL).eval()


def images_of(count: int, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def proposals_of(count: int) -> torch.Tensor:
    """One box per picture, and seven times none."""
    boxes = torch.zeros(count, PROPOSED, 4)
    boxes[:, 0] = torch.tensor([0.25, 0.3, 0.75, 0.8])
    return boxes


def test_boxes_lie_within_the_picture_and_the_surest_comes_first(network: OverlayNetwork) -> None:
    with torch.inference_mode():
        boxes, confidence = network(images_of(3), proposals_of(3))
    assert boxes.shape == (3, 8, 4)
    assert confidence.shape == (3, 8)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert torch.equal(confidence, confidence.sort(dim=1, descending=True).values)


def test_a_box_that_somebody_proposed_is_judged_beside_the_own_ones(network: OverlayNetwork) -> None:
    near = torch.tensor([0.25, 0.3, 0.75, 0.8])
    with torch.inference_mode():
        own, _ = network(images_of(1), torch.zeros(1, PROPOSED, 4))
        boxes, _ = network(images_of(1), near.expand(1, 40, 4))
    # Forty of the kind among eight of its own: some are among the best eight, each with its sides drawn within reach.
    assert own.shape == boxes.shape == (1, 8, 4)
    moved = (boxes - near).abs() <= reach(near) + 1e-6
    assert moved.all(dim=2).any()
    assert not torch.equal(own, boxes)


def test_boxes_of_zeros_are_no_proposals(network: OverlayNetwork) -> None:
    with torch.inference_mode():
        without = network(images_of(2), torch.zeros(2, 0, 4))
        with_zeros = network(images_of(2), torch.zeros(2, PROPOSED, 4))
    torch.testing.assert_close(with_zeros, without)


def test_a_side_that_no_level_divides_is_proposed_all_the_same(network: OverlayNetwork) -> None:
    with torch.inference_mode():
        boxes, _ = network(images_of(1, size=72), proposals_of(1))
    assert boxes.isfinite().all()


def test_a_peak_hides_the_cells_beside_it() -> None:
    heat = torch.full((1, 4, 4), -9.0)
    heat[0, 1, 1], heat[0, 1, 2], heat[0, 3, 3] = 5.0, 4.0, 1.0
    boxes = torch.arange(16.0).view(1, 4, 4, 1).expand(-1, -1, -1, 4)
    found, logits = top_peaks(Centers(heat, boxes), 2)
    assert logits.tolist() == [[5.0, 1.0]]
    assert found[0, :, 0].tolist() == [5.0, 15.0]  # the cells' numbers, row by row


def test_sides_are_searched_as_far_as_the_box_is_large() -> None:
    assert reach(torch.tensor([0.0, 0.0, 0.5, 0.25])).tolist() == pytest.approx([0.10, 0.06, 0.10, 0.06])


def test_bands_run_from_outside_to_inside_and_past_the_corners() -> None:
    box = torch.tensor([[[0.2, 0.4, 0.7, 0.65]]])  # 0.5 wide, 0.25 tall: searched 0.1 and 0.06 far
    bands = band_points(box, torch.linspace(-1, 1, ACROSS))[0, 0]
    left, top, right, bottom = bands
    assert left[0, 0].tolist() == pytest.approx([0.1, 0.37])
    assert left[-1, -1].tolist() == pytest.approx([0.3, 0.68])
    assert top[0, 0].tolist() == pytest.approx([0.14, 0.34])
    assert right[0, 0].tolist() == pytest.approx([0.8, 0.37])
    assert bottom[-1, -1].tolist() == pytest.approx([0.76, 0.59])


def test_a_map_of_half_precision_is_sampled_where_the_points_are() -> None:
    line = torch.zeros(1, 1, 1, 2048, dtype=torch.bfloat16)
    line[..., 1701] = 1.0
    points = torch.tensor([[[[1701.5 / 2048, 0.5]]]])  # between two places that bfloat16 has
    assert sample_maps(line, points).tolist() == [[[[1.0]]]]


def test_the_confidence_shift_moves_every_confidence_by_its_logit(network: OverlayNetwork) -> None:
    with torch.inference_mode():
        before = network(images_of(1), proposals_of(1))[1]
        network.confidence_shift += 1.5
        after = network(images_of(1), proposals_of(1))[1]
        network.confidence_shift -= 1.5
    torch.testing.assert_close(after.logit() - before.logit(), torch.full((1, 8), 1.5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pretrained_backbone_keeps_its_statistics_while_it_learns(frozen: bool) -> None:
    learner = build_overlay(SMALL)
    learner.frozen_statistics = frozen
    before = {name: value.clone() for name, value in learner.backbone.named_buffers() if name.endswith("running_mean")}
    learner.train()
    learner.maps(learner.normalize(images_of(2)))
    after = dict(learner.backbone.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items()) is frozen


def test_an_architecture_without_feature_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test_vit gives no feature maps at strides \(4, 8, 16, 32\)"):
        build_overlay(OverlayConfig("test_vit"))


def test_a_saved_network_finds_the_same_boxes(network: OverlayNetwork, tmp_path: Path) -> None:
    again = load_overlay(save_overlay(network, tmp_path / "overlay.safetensors"))
    assert again.config == SMALL
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_of_a_file_that_lacks_layers_the_others_can_be_taken(network: OverlayNetwork, tmp_path: Path) -> None:
    path = save_overlay(network, tmp_path / "overlay.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("judge.")}
    kept["centre.weight"] = tensors["centre.weight"][:, :1]  # of another shape
    save_file(kept, path, header)
    with pytest.raises(ModelFileError, match=r"does not fit test_efficientnet: .*judge\.compare.*; train it again"):
        load_overlay(path)
    part = load_overlay(path, partly=True).state_dict()
    assert torch.equal(part["pyramid.fine_lateral.weight"], tensors["pyramid.fine_lateral.weight"].float())
    for name in ("judge.decide.0.weight", "centre.weight"):
        assert part[name].shape == tensors[name].shape
        assert not torch.equal(part[name], tensors[name].float())


def test_the_second_look_starts_where_the_first_has_drawn_the_box(network: OverlayNetwork) -> None:
    boxes = proposals_of(2)[:, :1]
    with torch.inference_mode():
        coarse, fine = network.maps(network.normalize(images_of(2)))
        (first, second), logits = network.second_stage(coarse, fine, boxes, torch.zeros(2, 1))
    assert torch.equal(first.proposed, boxes)
    assert torch.equal(second.proposed, first.boxes)
    assert logits.shape == (2, 1)


def test_the_judge_sees_what_is_round_a_box_as_well_as_its_inside(network: OverlayNetwork) -> None:
    """Two maps that differ only beyond the box are told apart, and two that differ only far from it are not."""
    box, evidence, heat = torch.tensor([[[0.4, 0.4, 0.6, 0.6]]]), torch.zeros(1, 1, 64), torch.zeros(1, 1)
    plain, near, far = (torch.zeros(1, 16, 32, 32) for _ in range(3))
    near[..., 10:12, 10:12] = 9.0  # a third of the picture in: beside the box
    far[..., 0:2, 0:2] = 9.0
    with torch.inference_mode():
        judged = [float(network.judge(maps, box, evidence, heat)) for maps in (plain, near, far)]
    assert judged[1] != pytest.approx(judged[0], abs=1e-6)
    assert judged[2] == pytest.approx(judged[0], abs=1e-6)


def test_the_digest_changes_with_a_single_weight(network: OverlayNetwork, tmp_path: Path) -> None:
    one = digest_of_network(save_overlay(network, tmp_path / "one.safetensors"))
    with torch.no_grad():
        network.centre.bias += 0.5
        other = digest_of_network(save_overlay(network, tmp_path / "other.safetensors"))
        network.centre.bias -= 0.5
    assert one != other


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    broken = build_overlay(SMALL)
    with torch.no_grad():
        broken.centre.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"centre\.bias holds values that are not finite"):
        save_overlay(broken, tmp_path / "overlay.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not one of Copytrace"):
        read_overlay_config(tmp_path / "other.safetensors")


def test_a_file_cut_short_is_refused(network: OverlayNetwork, tmp_path: Path) -> None:
    path = save_overlay(network, tmp_path / "overlay.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        load_overlay(path)


def test_a_file_of_an_architecture_that_timm_does_not_have_is_refused_by_its_name(
    network: OverlayNetwork, tmp_path: Path
) -> None:
    config = asdict(network.config) | {"architecture": "no_such_network"}
    path = save_network(network, tmp_path / "overlay.safetensors", "overlay", config)
    with pytest.raises(ModelFileError, match=r"overlay\.safetensors: no_such_network gives no .* or upgrade timm"):
        load_overlay(path)


@pytest.mark.parametrize("count", [1, 5])
def test_the_exported_graph_agrees_with_torch(shipped_graph: Callable[[str], tuple[Path, Path]], count: int) -> None:
    weights, graph = shipped_graph("overlay")
    network = load_overlay(weights).eval()
    images, proposals = images_of(count, network.config.input_size), proposals_of(count)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    boxes, confidence = session.run(list(OVERLAY_OUTPUTS), {"images": images.numpy(), "proposals": proposals.numpy()})
    with torch.inference_mode():
        wanted_boxes, wanted_confidence = network(images, proposals)
    np.testing.assert_allclose(confidence, wanted_confidence.numpy(), atol=1e-3)
    # The network may believe two boxes alike, and rounding then decides which comes first.
    apart = np.abs(boxes[:, :1] - wanted_boxes.numpy()).max(axis=2).min(axis=1)
    np.testing.assert_allclose(apart, 0, atol=1e-3)
