from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from copytrace.errors import ConfigError, InputError
from copytrace.overlays.detectors import NetworkOverlayDetector, load_overlay_detector, select_boxes
from copytrace.runtime import read_graph
from models.configs import OverlayConfig
from models.export import OVERLAY_GRAPH_VERSION
from models.network_files import save_overlay
from models.overlay_network import build_overlay

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = build_overlay(OverlayConfig("test_efficientnet", input_size=64, width=16))
    return save_overlay(network.eval(), tmp_path_factory.mktemp("weights") / "overlay.safetensors")


@pytest.fixture(scope="module")
def detector(weights: Path) -> NetworkOverlayDetector:
    return NetworkOverlayDetector(weights, backend="torch", device="cpu")


@pytest.fixture(scope="module")
def by_onnx() -> NetworkOverlayDetector:
    """The detector that ships, whose graph other tests need too."""
    found = load_overlay_detector("network", backend="onnx")
    assert isinstance(found, NetworkOverlayDetector)
    return found


@pytest.fixture(scope="module")
def collages(photos: dict[str, Pixels]) -> list[Pixels]:
    """Each photo with another, half as wide, pasted into it."""
    names, made = sorted(photos), []
    for under, over in zip(names, names[1:] + names[:1], strict=True):
        collage, pasted = photos[under].copy(), cv2.resize(photos[over], (150, 90), interpolation=cv2.INTER_AREA)
        collage[40:130, 60:210] = pasted
        made.append(collage)
    return made


def test_repeats_of_a_better_box_are_left_out() -> None:
    corners = np.array([[0, 0, 0.5, 0.48], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    boxes = select_boxes(corners, np.array([0.6, 0.9, 0.3], np.float32))
    assert [round(box.confidence, 3) for box in boxes] == [0.9, 0.3]
    assert boxes[0].y1 == 0.5


@pytest.mark.parametrize(("corners", "confidence"), [([0.4, 0.1, 0.4, 0.9], 0.9), ([0.1, 0.1, 0.4, 0.9], 0.01)])
def test_empty_boxes_and_those_that_nobody_believes_are_left_out(corners: list[float], confidence: float) -> None:
    assert select_boxes(np.array([corners], np.float32), np.array([confidence], np.float32)) == []


def test_both_runtimes_find_the_same_boxes(
    by_onnx: NetworkOverlayDetector, collages: list[Pixels], shared_cache: Path
) -> None:
    assert read_graph(shared_cache / f"overlay-{by_onnx.digest}-v{OVERLAY_GRAPH_VERSION}.onnx")
    by_torch = load_overlay_detector("network", backend="torch", device="cpu")
    assert isinstance(by_torch, NetworkOverlayDetector)
    assert by_torch.digest == by_onnx.digest
    for collage in collages:
        found, wanted = by_onnx.detect(collage), by_torch.detect(collage)
        assert found
        assert found[0].confidence == pytest.approx(wanted[0].confidence, abs=1e-3)
        # An untrained network may believe two boxes alike, and either runtime then tell another one first.
        assert any(found[0].x0 == pytest.approx(box.x0, abs=1e-3) for box in wanted)


def test_the_same_pixels_give_the_same_boxes(by_onnx: NetworkOverlayDetector, collages: list[Pixels]) -> None:
    assert by_onnx.detect(collages[0]) == by_onnx.detect(collages[0])


def test_pixels_of_another_shape_are_refused(detector: NetworkOverlayDetector) -> None:
    with pytest.raises(InputError, match="uint8"):
        detector.detect(np.zeros((20, 20), np.uint8))


def test_a_file_that_is_no_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "overlay.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"overlay\.safetensors is not a whole safetensors file") as refusal:
        NetworkOverlayDetector(tmp_path / "overlay.safetensors")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_file_of_an_older_network_is_refused_in_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Literal["onnx", "torch"]
) -> None:
    monkeypatch.setenv("COPYTRACE_CACHE", str(tmp_path))
    with safe_open(weights, "pt") as file:
        header = file.metadata()
    kept = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("judge.")}
    save_file(kept, tmp_path / "overlay.safetensors", header)
    with pytest.raises(
        ConfigError, match=r"does not fit .*train it again; or set overlay\.detector to edges"
    ) as refusal:
        NetworkOverlayDetector(tmp_path / "overlay.safetensors", backend=backend, device="cpu")
    assert "\n" not in str(refusal.value)


def test_a_trained_detector_is_loaded_by_its_folder(weights: Path) -> None:
    found = load_overlay_detector(str(weights.parent), backend="torch", device="cpu")
    assert isinstance(found, NetworkOverlayDetector)
    assert found.input_size == 64
